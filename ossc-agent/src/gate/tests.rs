//! The gate against the running kernel: real readers, held at real bytes. Needs root, a disk file system
//! that takes pre-content marks at /var/tmp and a tmpfs at /dev/shm.

mod scene;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;

use self::scene::{Asked, BLOCK, BLOCKS, DISK, MEMORY, PATIENCE, SIZE, Scene, bytes_of, whole};
use super::{Found, Guarded, Mode, Ranges, probe};
use crate::base::{AccessKind, ByteRange};

const EXACT: Mode = Mode::PreContent { ranges: Ranges::Exact };
const EIO: &str = "Input/output error";

fn page(offset: u64) -> ByteRange {
    ByteRange::new(offset, offset + 4096)
}

#[test]
fn the_mode_fits_the_file_system() {
    for (root, modes) in
        [(DISK, vec![EXACT, Mode::PreContent { ranges: Ranges::WholeFile }]), (MEMORY, vec![Mode::Stop])]
    {
        let dir = tempfile::tempdir_in(root).unwrap();
        let Found { mode, stopper } = probe(dir.path()).unwrap();
        assert!(stopper.is_some(), "growing mappings are held everywhere");
        assert!(modes.contains(&mode), "{root}: {mode}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left in {root}");
    }
    let error = probe(Path::new("/proc")).unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn readers_wait_for_exactly_their_bytes() {
    let scene = Scene::on(DISK);
    assert_eq!(scene.gate.mode(), EXACT);
    let map = "import mmap,os,sys; f=os.open(sys.argv[1],os.O_RDONLY); \
               sys.stdout.buffer.write(mmap.mmap(f,65536,mmap.MAP_PRIVATE,mmap.PROT_READ,offset=10485760)[:])";
    let map_range = ByteRange::new(10_485_760, 10_485_760 + 65_536);
    let tail = ByteRange::new(SIZE - 96, SIZE);
    let numbers = scene.gate.numbers();
    for (name, line, asked, printed) in [
        ("read", "dd if=\"$1\" bs=4096 skip=3 count=1 status=none".to_owned(), page(12_288), page(12_288)),
        ("mmap at an offset", format!("python3 -c '{map}' \"$1\""), map_range, map_range),
        (
            "pread across the end",
            format!("dd if=\"$1\" bs=4096 iflag=skip_bytes skip={} status=none", tail.start()),
            ByteRange::new(tail.start() / 4096 * 4096, SIZE),
            tail,
        ),
    ] {
        let reader = scene.shell(&line);
        let demand = scene.asked();
        assert_eq!(demand.range, asked, "{name}");
        let waiting: Vec<_> = numbers.waiting(10).iter().map(|reader| reader.range).collect();
        assert_eq!(waiting, [asked], "{name}");
        scene.serve(demand);
        assert_eq!(reader.printed(), bytes_of(printed), "{name}");
    }
    let snapshot = scene.gate.snapshot();
    assert_eq!((snapshot.held, snapshot.held_total, snapshot.denied_total), (0, 3, 0));
    assert!(snapshot.longest_wait <= snapshot.waited && !snapshot.waited.is_zero());
    assert_eq!((numbers.waiting(10), numbers.hold_times().count()), (Vec::new(), 3));
}

#[test]
fn whole_file_programs_get_right_bytes() {
    for root in [DISK, MEMORY] {
        for line in ["cat \"$1\"", "cp \"$1\" \"$1.copy\" && cat \"$1.copy\""] {
            let scene = Scene::on(root);
            let reader = scene.shell(line);
            let mut left = BLOCKS;
            // Serves the demands as they come until the file is full; after that none can come.
            while left > 0 {
                scene.serve(scene.asked());
                left = (0..BLOCKS).filter(|block| !scene.file.covers(page(block * BLOCK))).count() as u64;
            }
            assert!(reader.printed() == bytes_of(whole()), "{line} in {root}");
        }
    }
}

#[test]
fn ready_bytes_are_not_waited_for_but_seen() {
    let scene = Scene::on(DISK);
    scene.file.fill(page(0));
    let reader = scene.dd(page(8192));
    let pid = reader.pid();
    assert_eq!(reader.printed(), bytes_of(page(8192)));
    let access = scene.accesses.recv().unwrap();
    assert_eq!((access.range, access.kind, access.pid), (page(8192), AccessKind::Read, pid));
    assert!(access.at_ns > 0);
    assert_eq!(scene.gate.snapshot().held_total, 0);
    assert!(scene.demands.try_recv().is_err());
}

#[test]
fn where_ranges_are_not_trusted_every_read_means_the_whole_file() {
    let scene = Scene::with(DISK, Mode::PreContent { ranges: Ranges::WholeFile }, 10);
    let reader = scene.dd(page(8192));
    let demand = scene.asked();
    assert_eq!(demand.range, whole());
    scene.serve(demand);
    assert_eq!(reader.printed(), bytes_of(page(8192)));
}

#[test]
fn open_waits_for_the_whole_file_where_reads_cannot() {
    let scene = Scene::with(MEMORY, Mode::Open, 1000);
    let reader = scene.dd(page(8192));
    let demand = scene.asked();
    assert_eq!(demand.range, whole());
    let access = scene.accesses.recv().unwrap();
    assert_eq!((access.range, access.kind), (whole(), AccessKind::Open));
    scene.serve(demand);
    assert_eq!(reader.printed(), bytes_of(page(8192)));

    let scene = Scene::with(MEMORY, Mode::Open, 1000);
    let reader = scene.dd(page(8192));
    scene.asked().reply.answer(Err(Errno::EIO));
    reader.fails_with(EIO);
}

#[test]
fn many_readers_of_one_range_all_get_it() {
    let scene = Scene::on(DISK);
    let readers: Vec<_> = (0..8).map(|_| scene.dd(page(0))).collect();
    let demands: Vec<_> = readers.iter().map(|_| scene.asked()).collect();
    assert_eq!(scene.gate.snapshot().held, 8);
    for demand in demands {
        assert_eq!(demand.range, page(0));
        scene.serve(demand);
    }
    for reader in readers {
        assert_eq!(reader.printed(), bytes_of(page(0)));
    }
}

#[test]
fn readers_beyond_the_capacity_wait_their_turn() {
    for capacity in [1, 2] {
        let scene = Scene::with(DISK, EXACT, capacity);
        let readers: Vec<_> =
            (0..BLOCKS).map(|block| (page(block * BLOCK), scene.dd(page(block * BLOCK)))).collect();
        for _ in &readers {
            scene.serve(scene.asked());
        }
        for (range, reader) in readers {
            assert_eq!(reader.printed(), bytes_of(range));
        }
        let snapshot = scene.gate.snapshot();
        assert_eq!((snapshot.held_total, snapshot.denied_total), (BLOCKS, 0));
        assert_eq!(snapshot.most_held, capacity as u64);
    }
}

#[test]
fn readers_of_random_ranges_never_see_a_hole() {
    let scene = Scene::with(DISK, EXACT, 5);
    let mut random = fastrand::Rng::with_seed(7);
    let ranges: Vec<_> = (0..60)
        .map(|_| {
            let start = random.u64(0..SIZE / 4096) * 4096;
            ByteRange::new(start, (start + random.u64(1..3 * BLOCK)).min(SIZE))
        })
        .collect();
    let readers: Vec<_> = ranges.iter().map(|range| scene.dd(*range)).collect();
    let Scene { file, gate, demands, .. } = scene;
    let file = &*file;
    thread::scope(move |scope| {
        scope.spawn(move || {
            // Each block of what is asked for arrives by itself, the last one first.
            while let Ok(asked) = demands.recv() {
                for block in file.layout().blocks_of(asked.range).rev() {
                    file.fill(page(u64::from(block) * BLOCK));
                }
                asked.reply.answer(Ok(()));
            }
        });
        for (range, reader) in ranges.iter().zip(readers) {
            assert!(reader.printed() == bytes_of(*range), "{range}");
        }
        // Ends the gate's thread, hence the demands.
        drop(gate);
    });
}

#[test]
fn a_failed_demand_fails_exactly_its_readers() {
    let scene = Scene::on(DISK);
    // The kernel has no room for ESTALE in an answer; it becomes EIO.
    for (errno, message) in [
        (Errno::EIO, EIO),
        (Errno::ESTALE, EIO),
        (Errno::ENOSPC, "No space left"),
        (Errno::EPERM, "not permitted"),
    ] {
        let failing = scene.dd(page(0));
        let failing_demand = scene.asked();
        let waiting = scene.dd(page(BLOCK));
        let waiting_demand = scene.asked();
        failing_demand.reply.answer(Err(errno));
        failing.fails_with(message);
        scene.serve(waiting_demand);
        assert_eq!(waiting.printed(), bytes_of(page(BLOCK)), "{errno}");
        scene.file.forget();
    }
    let abandoned = scene.dd(page(0));
    drop(scene.asked());
    abandoned.fails_with(EIO);
}

#[test]
fn a_promise_without_bytes_is_asked_for_once_more_and_then_fails() {
    let scene = Scene::on(DISK);
    let empty_promise = |demand: Asked| demand.reply.answer(Ok(()));
    let reader = scene.dd(page(0));
    empty_promise(scene.asked());
    scene.serve(scene.asked());
    assert_eq!(reader.printed(), bytes_of(page(0)));

    scene.file.forget();
    let reader = scene.dd(page(4096));
    empty_promise(scene.asked());
    empty_promise(scene.asked());
    reader.fails_with(EIO);
}

#[test]
fn a_killed_reader_leaves_the_gate_working() {
    let scene = Scene::on(DISK);
    let killed = scene.dd(page(0));
    let demand = scene.asked();
    killed.kill();
    assert!(!killed.end().status.success());
    scene.serve(demand);
    let reader = scene.dd(page(BLOCK));
    scene.serve(scene.asked());
    assert_eq!(reader.printed(), bytes_of(page(BLOCK)));
    let snapshot = scene.gate.snapshot();
    assert_eq!((snapshot.held, snapshot.denied_total), (0, 0));
}

#[test]
fn release_lets_go_and_takes_the_gate_off() {
    let scene = Scene::on(DISK);
    let reader = scene.dd(page(0));
    let unanswered = scene.asked();
    scene.gate.release(&*scene.file);
    assert_eq!(scene.gate.snapshot().held, 1, "a file with holes is not released");
    scene.file.fill(whole());
    scene.gate.release(&*scene.file);
    assert_eq!(reader.printed(), bytes_of(page(0)));
    let before = scene.gate.snapshot().accesses;
    assert_eq!(scene.dd(page(BLOCK)).printed(), bytes_of(page(BLOCK)));
    assert_eq!(scene.gate.snapshot().accesses, before, "no event after the release");
    // The late outcome of a demand whose reader has gone.
    unanswered.reply.answer(Err(Errno::EIO));
}

#[test]
fn events_of_a_released_file_pass_and_of_an_unknown_one_fail() {
    let scene = Scene::on(DISK);
    scene.file.fill(whole());
    scene.gate.release(&*scene.file);
    // As when the event was under way while the mark went.
    scene.gate.shared.group.mark(EXACT.mark(), scene.file.fd()).unwrap();
    assert_eq!(scene.dd(page(0)).printed(), bytes_of(page(0)));

    let path = scene.dir.path().join("stranger");
    fs::write(&path, "bytes").unwrap();
    let stranger = fs::File::open(&path).unwrap();
    scene.gate.shared.group.mark(EXACT.mark(), stranger.as_fd()).unwrap();
    scene.shell("cat \"$(dirname \"$1\")/stranger\"").fails_with(EIO);
}

#[test]
fn a_file_given_up_fails_for_everyone() {
    let scene = Scene::on(DISK);
    scene.file.fill(page(0));
    let held = scene.dd(page(BLOCK));
    let _unanswered = scene.asked();
    scene.gate.fail(&*scene.file, Errno::ESTALE);
    held.fails_with(EIO);
    scene.dd(page(0)).fails_with(EIO);
    scene.dd(page(BLOCK)).fails_with(EIO);
}

/// Bytes that come between the copy and the agent's look at it leave zeros that nobody could tell from the file's, so
/// whoever asks for such copies of a file that is not complete is killed, whatever is there.
#[test]
fn who_may_have_copied_holes_is_killed_and_who_copied_nothing_is_not() {
    for (flags, ends) in [("|mmap.MAP_POPULATE", true), ("|0x2000", true), ("", false)] {
        let scene = Scene::on(MEMORY);
        scene.file.fill(whole());
        let map = format!(
            "import mmap,os,sys; f=os.open(sys.argv[1],os.O_RDONLY); sys.stdout.buffer.write(\
             mmap.mmap(f,65536,mmap.MAP_PRIVATE{flags},mmap.PROT_READ|mmap.PROT_WRITE)[:])"
        );
        let end = scene.shell(&format!("exec python3 -c '{map}' \"$1\"")).end();
        if ends {
            assert_eq!((end.status.signal(), end.stdout), (Some(9), Vec::new()), "{flags}");
        } else {
            assert_eq!(end.stdout, bytes_of(ByteRange::new(0, 65_536)));
        }
    }
}

#[test]
fn stop_answers_everyone_and_lets_no_hole_through() {
    let scene = Scene::on(DISK);
    scene.file.fill(page(0));
    let held = scene.dd(page(BLOCK));
    let unanswered = scene.asked();
    let ready_in_time = scene.dd(page(2 * BLOCK));
    let late_reply = scene.asked();
    scene.file.fill(page(2 * BLOCK));
    scene.gate.stop();
    assert_eq!(scene.gate.snapshot().held, 0);
    held.fails_with(EIO);
    assert_eq!(ready_in_time.printed(), bytes_of(page(2 * BLOCK)));
    scene.dd(page(BLOCK)).fails_with(EIO);
    assert_eq!(scene.dd(page(0)).printed(), bytes_of(page(0)));
    drop((unanswered, late_reply));
    scene.gate.stop();
}

#[test]
fn own_accesses_are_never_held() {
    for root in [DISK, MEMORY] {
        let scene = Scene::on(root);
        // In a thread: were it held, the scene would have to end for it to go on.
        let path = scene.file.path().to_owned();
        let (done, read) = mpsc::channel();
        thread::spawn(move || done.send(fs::read(path)));
        let bytes = read.recv_timeout(PATIENCE).expect("the read ends").unwrap();
        assert_eq!(bytes.len() as u64, SIZE);
        assert_eq!(scene.gate.snapshot().accesses, 0, "{root}");
        assert!(scene.demands.try_recv().is_err());
    }
}

#[test]
fn readers_that_a_dead_agent_left_are_served() {
    let (scene, [known, unknown, unplaced]) = Scene::inherited(page(8192));
    // Whose number could not be kept free cannot wait.
    unplaced.fails_with(EIO);
    let (one, other) = (scene.asked(), scene.asked());
    assert_eq!((one.range, other.range), (page(8192), page(8192)));
    scene.serve(one);
    scene.serve(other);
    assert_eq!(known.printed(), bytes_of(page(8192)));
    assert_eq!(unknown.printed(), bytes_of(page(8192)));
}
