//! More reads than usual, and more than there is room for: nothing is lost unnoticed.

use super::*;

/// Reads of each flood: two seconds of a machine that reads 100 000 times a second, and more than the ring holds.
const READS: usize = 200_000;

/// Two processes that read so many pages together, each another one than before.
fn readers(file: &Path) -> [Reader; 2] {
    let script = format!(
        r#"exec python3 -c '
import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
for n in range({}): os.pread(f, 4096, n % 64 * 4096)
' "$FILE""#,
        READS / 2
    );
    [(); 2].map(|()| Reader::held(&script, file))
}

fn run([one, other]: [Reader; 2]) {
    std::thread::scope(|scope| {
        scope.spawn(|| one.run());
        other.run();
    });
}

#[test]
fn as_many_reads_as_two_processes_make_are_all_seen() {
    let file = Watchable::on_disk();
    let readers = readers(&file.path);
    let (probes, seen) = start(chosen(&readers.each_ref().map(Reader::pid), &[]));
    file.watch(&probes, 0);
    let began = Instant::now();
    run(readers);
    println!("{:.0} reads a second", READS as f64 / began.elapsed().as_secs_f64());
    assert_eq!(probes.dropped(), 0);
    drop(probes);
    assert_eq!(seen.iter().filter(|access| access.kind == AccessKind::Read).count(), READS);
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let file = Watchable::on_disk();
    let readers = readers(&file.path);
    // A sink that takes nothing until the readers have ended.
    let (go, wait) = mpsc::channel::<()>();
    let (sender, seen) = mpsc::channel();
    let sink = move |seen| {
        wait.recv().unwrap_or(());
        sender.send(seen).unwrap_or(());
    };
    let targets = chosen(&readers.each_ref().map(Reader::pid), &[]);
    let probes = Probes::start(&Config::new(targets), sink).unwrap();
    file.watch(&probes, 0);
    run(readers);
    let dropped = probes.dropped();
    drop(go);
    drop(probes);
    let seen = seen.iter().count();
    // Each of the two opened the file once, too.
    assert!(dropped > 0 && seen > 0, "{dropped} dropped, {seen} seen");
    assert_eq!(u64::try_from(seen).unwrap() + dropped, u64::try_from(READS + 2).unwrap());
}
