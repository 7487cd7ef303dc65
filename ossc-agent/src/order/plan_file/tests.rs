//! What a text of learned orders must hold together, and what bytes from outside may not do. No files here: those
//! are `shelf`'s.

use proptest::prelude::*;

use super::*;

const G: u64 = 2 << 20;

fn step(file: u32, start: u64, end: u64) -> Step {
    Step { file: FileId(file), range: ByteRange::new(start, end), at_ms: 7 }
}

fn run(version: &str, started_ms: u64) -> Run {
    Run { version: version.to_owned(), started_ms, steps: vec![step(1, 2 * G, 3 * G + 5), step(0, 0, 4 * G)] }
}

fn orders() -> Orders {
    let model = Model {
        source: "oss://b/m/".to_owned(),
        files: vec![("m/a".to_owned(), 4 * G), ("m/b".to_owned(), 3 * G + 5)],
        version: "v1".to_owned(),
    };
    let mut orders = Orders::new(&model);
    orders.add("llama-server", run("v1", 1));
    orders
}

fn starts(runs: &[&Run]) -> Vec<u64> {
    runs.iter().map(|run| run.started_ms).collect()
}

#[test]
fn what_is_written_is_read() {
    let mut orders = orders();
    orders.add("python3 serve.py", run("v2", 2));
    assert_eq!(Orders::parse(&orders.encode()).unwrap(), orders);
}

#[test]
fn a_new_version_inherits_until_it_has_a_run_of_its_own() {
    let mut orders = orders();
    orders.add("llama-server", run("v1", 2));
    assert_eq!(starts(&orders.runs("llama-server", "v2")), [2, 1]);
    orders.add("llama-server", run("v2", 3));
    assert_eq!(starts(&orders.runs("llama-server", "v2")), [3]);
    assert_eq!(starts(&orders.runs("llama-server", "v1")), [2, 1]);
    assert_eq!(starts(&orders.runs("cp", "v1")), [0; 0]);
}

#[test]
fn old_runs_and_old_commands_are_dropped() {
    let mut orders = orders();
    (2..=9).for_each(|at| orders.add("llama-server", run("v1", at)));
    orders.add("llama-server", run("v1", 9));
    assert_eq!(starts(&orders.runs("llama-server", "v1")), [9, 8, 7, 6, 5]);
    (10..20).for_each(|at| orders.add(&format!("command {at}"), run("v1", at)));
    assert_eq!(orders.commands.len(), MAX_COMMANDS);
    assert!(!orders.commands.contains_key("llama-server") && orders.commands.contains_key("command 12"));
    assert!(Orders::parse(&orders.encode()).is_ok());
}

#[test]
fn imported_commands_replace_those_of_the_same_name() {
    let (mut here, mut there) = (orders(), orders());
    here.add("cp", run("v1", 5));
    there.add("llama-server", run("v9", 0));
    here.adopt(there.clone());
    assert_eq!(here.commands["llama-server"], there.commands["llama-server"]);
    assert!(here.commands.contains_key("cp"));
}

#[test]
fn what_is_no_order_is_refused() {
    let good = String::from_utf8(orders().encode()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    for (text, problem) in [
        (String::new(), "not the JSON"),
        ("[1]".to_owned(), "not the JSON"),
        (with("ossc-order", "other"), "format 'other'"),
        (with("\"version\":1", "\"version\":2"), "version 2"),
        (with("\"files\"", "\"fails\""), "not the JSON"),
        (with("[1,2,2,7]", "[2,2,2,7]"), "no file"),
        (with("[1,2,2,7]", "[1,4,1,7]"), "outside"),
        (with("[1,2,2,7]", "[1,2,0,7]"), "outside"),
        (with("[1,2,2,7]", "[0,0,4,7]"), "twice"),
        (with("[1,2,2,7]", "[1,4294967295,4294967295,7]"), "outside"),
        (with("[1,2,2,7]", "[1,-2,2,7]"), "not the JSON"),
        (with("llama-server", ""), "name"),
        (with("llama-server", "\\u001b[2J"), "name"),
        (with("[[1,2,2,7],[0,0,4,7]]", "5"), "not the JSON"),
    ] {
        let refusal = Orders::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(refusal.contains(problem), "{text}: {refusal}");
    }
}

proptest! {
    #[test]
    fn any_change_of_a_text_gives_an_answer(at in 0..400usize, byte: u8, cut: bool) {
        let mut text = orders().encode();
        let at = at % text.len();
        if cut { text.truncate(at) } else { text[at] = byte }
        if let Ok(orders) = Orders::parse(&text) {
            let runs = orders.commands.values().flatten();
            prop_assert!(runs.into_iter().all(|run| run.bytes() <= orders.size()));
        }
    }
}
