//! The rarer ways to a file's bytes, as the trace tells them: mappings that change and that were there before, reads past
//! the page cache, reads to the byte.

use super::*;

#[test]
fn what_becomes_of_a_mapping_is_followed() {
    // Maps 4..12 MiB, grows to 4..20, touches 14, unmaps 5..7, maps something else over 4..5 and touches that; a
    // child touches 9.
    let script = "
import ctypes
c = ctypes.CDLL(None)
word = ctypes.c_size_t
c.mmap.restype = c.mremap.restype = word
c.mmap.argtypes = [word, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
c.mremap.argtypes = [word, word, word, ctypes.c_int]
c.munmap.argtypes = [word, word]
READ, PRIVATE, FIXED, ANONYMOUS, MAYMOVE = 1, 2, 16, 32, 1
MIB = 1 << 20
touch = lambda at: ctypes.string_at(at, 1)
f = os.open(a, os.O_RDONLY)
m = c.mremap(c.mmap(0, 8 * MIB, READ, PRIVATE, f, 4 * MIB), 8 * MIB, 16 * MIB, MAYMOVE)
touch(m + 10 * MIB)
c.munmap(m + MIB, 2 * MIB)
assert c.mmap(m, MIB, READ, PRIVATE | FIXED | ANONYMOUS, -1, 0) == m
touch(m)
child = os.fork()
if child == 0:
    touch(m + 5 * MIB)
    os._exit(0)
os.waitpid(child, 0)
";
    for (place, how) in places().into_iter().flat_map(|place| HOW_FAULTS.map(|how| (place.clone(), how))) {
        let model = Model::on(&place);
        let trace = Trace::with(&model, &["--faults", how], script);
        let changes: Vec<_> = ["map", "remap", "unmap"]
            .into_iter()
            .flat_map(|kind| trace.accesses(kind))
            .map(|access| (access.kind, access.start / MIB, access.end / MIB))
            .collect();
        let expected = [("map", 4, 12), ("remap", 4, 20), ("unmap", 5, 7), ("unmap", 4, 5)];
        assert_eq!(changes, expected.map(|(kind, start, end)| (kind.to_owned(), start, end)));
        let faults = trace.accesses("fault");
        let [of_parent, of_child] = &faults[..] else { panic!("{faults:?}") };
        for (fault, byte) in [(of_parent, 14 * MIB), (of_child, 9 * MIB)] {
            assert!(
                fault.start <= byte && byte < fault.end && fault.end - fault.start <= MAPPED_MAX,
                "{fault:?}"
            );
        }
        assert_ne!(of_parent.pid, of_child.pid);
        let summary = trace.file(0);
        assert_eq!([&summary["maps"], &summary["remaps"], &summary["unmaps"]], [1, 1, 2]);
        assert_eq!(summary["mapped"], 16 * MIB);
    }
}

#[test]
fn a_process_that_runs_already_has_its_mappings() {
    for place in places() {
        let model = Model::on(&place);
        let script = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
print('mapped', flush=True)
sys.stdin.readline()
m[33 << 20]
m.close()
";
        let mut reader = Running(
            Command::new("python3")
                .args(["-c", script])
                .arg(model.path("a.gguf"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(reader.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut agent = Running(
            agent()
                .args(["--faults", "address", "--format", "json", "--pid", &reader.0.id().to_string()])
                .arg("--path")
                .arg(model.0.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let mut said = BufReader::new(agent.0.stdout.take().unwrap());
        let mut text = String::new();
        said.read_line(&mut text).unwrap();
        reader.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(reader.0.wait().unwrap().success());
        kill(Pid::from_raw(i32::try_from(agent.0.id()).unwrap()), Signal::SIGINT).unwrap();
        said.read_to_string(&mut text).unwrap();
        assert!(agent.0.wait().unwrap().success());
        let trace = Trace::parse(text.as_bytes());
        let (faults, unmaps) = (trace.accesses("fault"), trace.accesses("unmap"));
        assert!(faults.len() == 1 && faults[0].start <= 33 * MIB && 33 * MIB < faults[0].end, "{faults:?}");
        assert!(unmaps.len() == 1 && (unmaps[0].start, unmaps[0].end) == (0, SIZE), "{unmaps:?}");
    }
}

#[test]
fn direct_reads_are_seen_each_time() {
    let model = Model::on(&std::env::temp_dir());
    let script = "
f = os.open(a, os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
for at in (0, 8 << 20, 8 << 20, 4 << 20): os.preadv(f, [buffer], at)
";
    for how in ["auto", "always"] {
        let trace = Trace::with(&model, &["--reads", how], script);
        let starts: Vec<_> = trace.accesses("read").iter().map(|read| read.start / MIB).collect();
        assert_eq!(starts, [0, 8, 4], "what is read twice is one line");
        let summary = trace.file(0);
        assert_eq!((&summary["reads"], &summary["read_bytes"]), (&4.into(), &(4 * MIB).into()));
    }
}

#[test]
fn read_calls_are_seen_to_the_byte_where_that_is_asked_for() {
    let model = Model::on(&std::env::temp_dir());
    let script = "f = os.open(a, os.O_RDONLY)\nos.pread(f, 100, 70000)\nos.sendfile(os.open('/dev/null', os.O_WRONLY), f, 0, 5)";
    let trace = Trace::with(&model, &["--reads", "always"], script);
    let reads: Vec<_> = trace.accesses("read").iter().map(|read| (read.start, read.end)).collect();
    assert_eq!(reads, [(70000, 70100), (0, 4096)], "sendfile is seen by pages, as without");
}
