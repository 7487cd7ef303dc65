//! Calls that go past the page cache, and calls that a gate holds.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::sys::fanotify::{Buffer, Group, Mark, Names};

#[test]
fn direct_reads_are_seen_on_every_disk_file_system() {
    let btrfs = Btrfs::mount();
    let script = r#"exec python3 -c '
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 16384)
for at in (65536, 65536, 0): os.preadv(f, [buffer], at)
' "$FILE""#;
    for parent in [DISK.into(), btrfs.subvolume()] {
        let file = Watchable::below(&parent);
        // Written back: a direct read of dirty pages would find them in the page cache first.
        File::open(&file.path).unwrap().sync_all().unwrap();
        let reader = Reader::held(script, &file.path);
        let (probes, seen) = start(chosen(&[reader.pid()], &[]));
        file.watch(&probes, 0);
        reader.run();
        drop(probes);
        let reads: Vec<_> = seen.iter().filter(|access| access.kind == AccessKind::Read).collect();
        let ranges: Vec<_> = reads.iter().map(|read| (read.range.start(), read.range.len())).collect();
        let expected = [(65536, 16384), (65536, 16384), (0, 16384)];
        assert_eq!(ranges, expected, "in {}", parent.display());
    }
}

#[test]
fn a_call_that_a_gate_holds_is_timed() {
    const HOLD: Duration = Duration::from_millis(50);
    let file = Watchable::on_disk();
    let group = Group::new(Names::Processes).unwrap();
    group.mark(Mark::PreAccess, File::open(&file.path).unwrap().as_fd()).unwrap();
    assert!(Gates::find().hold_any(&[File::open(&file.path).unwrap()]));
    let other = Watchable::on_disk();
    assert!(!Gates::find().hold_any(&[File::open(&other.path).unwrap()]));

    let script = r#"exec python3 -c '
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
os.pread(f, 10, 4096)
mmap.mmap(f, 8192, prot=mmap.PROT_READ)
g = os.open(sys.argv[2], os.O_RDONLY)
os.pread(g, 10, 0)
' "$FILE" "$OTHER""#;
    let reader = Reader::held(&format!("OTHER={} && {script}", other.path.display()), &file.path);
    let pid = reader.pid();
    let (sender, seen) = mpsc::channel();
    let config = Config { stalls: true, ..Config::new(chosen(&[pid], &[])) };
    let probes = Probes::start(&config, move |seen| sender.send(seen).unwrap_or(())).unwrap();
    file.watch(&probes, 3);
    other.watch(&probes, 4);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| reader.run());
        let mut buffer = Buffer::new();
        let mut held = 0;
        while held < 2 {
            poll(&mut [PollFd::new(group.as_fd(), PollFlags::POLLIN)], PollTimeout::from(30_000_u16))
                .unwrap();
            let batch = group.read(Mark::PreAccess, 8, &mut buffer).unwrap();
            for event in batch {
                // How long it is held, not a wait for anything.
                std::thread::sleep(HOLD);
                group.allow(&event.unwrap()).unwrap();
                held += 1;
            }
            buffer.settle();
        }
    });
    let most = began.elapsed();
    drop(probes);
    let stalls: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Stall(stall) => Some(stall),
            Seen::Access(_) => None,
        })
        .collect();
    assert_eq!(stalls.len(), 2, "one of the read, one of the mapping, none of the other file: {stalls:?}");
    for stall in &stalls {
        assert_eq!((stall.file, stall.pid), (FileId(3), pid));
        let duration = Duration::from_nanos(stall.duration_ns);
        assert!(HOLD <= duration && duration <= most, "{stall:?}");
    }
}
