//! Which requests rules hit, and the text form of rules.

use std::ops::Range;

use super::*;
use crate::log::Operation;

fn get(key: &str, range: Range<u64>) -> Subject<'_> {
    Subject { operation: Operation::Get, method: "GET", key, range: Some(range) }
}

fn hits(rule: Rule, subjects: &[Subject<'_>]) -> Vec<bool> {
    let faults = Faults::default();
    faults.add(rule);
    subjects.iter().map(|subject| faults.plan(subject).close).collect()
}

#[test]
fn restrictions() {
    let subjects = [
        get("m/a.bin", 0..100),
        get("m/a.bin", 100..200),
        get("n/b.bin", 0..100),
        Subject { operation: Operation::Meta, method: "HEAD", key: "m/a.bin", range: None },
        Subject { operation: Operation::List, method: "GET", key: "m/", range: None },
    ];
    let rule = || Rule::new(Fault::Close);
    for (rule, expected) in [
        (rule(), [true; 5]),
        (rule().key("m/*"), [true, true, false, true, true]),
        (rule().key("m/*.bin").method("get"), [true, true, false, false, false]),
        (rule().operation(Operation::List), [false, false, false, false, true]),
        (rule().range(99..100), [true, false, true, false, false]),
        (rule().range(100..101), [false, true, false, false, false]),
        (rule().range(50..150), [true, true, true, false, false]),
        (rule().nth(2), [false, true, false, false, false]),
        (rule().method("GET").nth(4), [false, false, false, false, true]),
        (rule().skip(3), [false, false, false, true, true]),
        (rule().times(2), [true, true, false, false, false]),
        (rule().skip(1).times(2), [false, true, true, false, false]),
        (rule().probability(0.0, 1), [false; 5]),
        (rule().probability(1.0, 1), [true; 5]),
    ] {
        assert_eq!(hits(rule.clone(), &subjects), expected, "{rule:?}");
    }
}

#[test]
fn a_probability_is_kept_and_repeats_with_its_seed() {
    let subjects: Vec<Subject<'_>> = (0..2000).map(|_| get("k", 0..1)).collect();
    for probability in [0.05, 0.5, 0.9] {
        let first = hits(Rule::new(Fault::Close).probability(probability, 3), &subjects);
        assert_eq!(first, hits(Rule::new(Fault::Close).probability(probability, 3), &subjects));
        assert_ne!(first, hits(Rule::new(Fault::Close).probability(probability, 4), &subjects));
        let share = f64::from(u32::try_from(first.iter().filter(|&&hit| hit).count()).unwrap()) / 2000.0;
        assert!((share - probability).abs() < 0.04, "{share} of {probability}");
    }
}

#[test]
fn rules_add_up_and_can_be_removed() {
    let faults = Faults::default();
    let drip = faults.add(Rule::new(Fault::Drip { rate: 9 }));
    let flip = faults.add(Rule::new(Fault::Flip { offset: 1 }));
    faults.add(Rule::new(Fault::Flip { offset: 5 }));
    let plan = faults.plan(&get("k", 0..10));
    assert_eq!((plan.rate, plan.flips), (9, vec![1, 5]));
    assert_eq!((drip.hits(), flip.hits()), (1, 1));
    assert!(flip.wait(1, Duration::ZERO) && !flip.wait(2, Duration::ZERO));
    flip.remove();
    assert_eq!(faults.plan(&get("k", 0..10)).flips, [5]);
    faults.clear();
    assert!(faults.plan(&get("k", 0..10)).flips.is_empty());
}

#[test]
fn a_stall_ends_by_release_time_or_departure() {
    let faults = Faults::default();
    let rule = faults.add(Rule::new(Fault::Stall { after: Some(3), time: None }));
    let plan = faults.plan(&get("k", 0..10));
    let stall = &plan.stalls[0];
    assert_eq!(stall.after, Some(3));
    stall.rule.hold(Some(Duration::from_millis(1)), || false);
    stall.rule.hold(None, || true);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| stall.rule.hold(None, || false));
        rule.release();
        held.join().unwrap();
    });
}

#[test]
fn rules_as_text() {
    let rule = Rule::new;
    for (text, expected) in [
        ("close", rule(Fault::Close)),
        ("error=503:QpsLimitExceeded,key=m/*,times=3", {
            rule(Fault::Error { status: 503, code: "QpsLimitExceeded".to_owned() }).key("m/*").times(3)
        }),
        ("stall", rule(Fault::Stall { after: None, time: None })),
        ("stall=20", rule(Fault::Stall { after: None, time: Some(Duration::from_millis(20)) })),
        ("stall=20@100", rule(Fault::Stall { after: Some(100), time: Some(Duration::from_millis(20)) })),
        (
            "wrong-range=-4096,op=get,nth=2",
            rule(Fault::WrongRange { shift: -4096 }).operation(Operation::Get).nth(2),
        ),
        ("short=10,range=0-99,method=get", rule(Fault::Short { after: 10 }).range(0..100).method("GET")),
        ("reset=0,probability=0.25,seed=7", rule(Fault::Reset { after: 0 }).probability(0.25, 7)),
        ("excess=1", rule(Fault::Excess { bytes: 1, declared: false })),
        ("put=a:b:12", rule(Fault::Put { key: "a:b".to_owned(), size: 12 })),
        ("skew=-1000,skip=1", rule(Fault::Skew { seconds: -1000 }).skip(1)),
    ] {
        assert_eq!(text.parse::<Rule>().unwrap(), expected, "{text}");
    }
    for text in
        ["", "other", "short", "short=x", "error=503", "close,op=x", "close,probability=2", "close,x=1"]
    {
        assert!(text.parse::<Rule>().is_err(), "{text}");
    }
}
