//! What each kernel should show, and the comparison with what `ossc-kernel-check` saw.
//!
//! One small table by kernel version, because the agent itself never looks at a version: it tries. When the agent
//! learns something new on an old kernel a check fails here, and the table is changed with it.

use super::report::{DOCTOR, Denied, Doctor, LOCKED_DOWN, Line, Probes, Readers, Seen, Trace};

/// What holds from a kernel version on.
#[derive(Debug)]
struct Expectation {
    /// The first version, `(major, minor)`.
    since: (u32, u32),
    /// Probes that the agent names as missing.
    missing: &'static [&'static str],
    /// What a reader gets who is denied.
    denial: &'static str,
    ext4: On,
    tmpfs: On,
}

/// What holds on one file system.
#[derive(Debug)]
struct On {
    /// The gates that the agent may choose.
    gates: &'static [&'static str],
    /// How reads are seen.
    reads: Seen,
    /// How page faults are seen.
    faults: Seen,
    /// Kinds of reads that the kernel refuses on a plain file.
    refused: &'static [&'static str],
}

/// They came with Linux 6.12 (include/trace/events/filemap.h).
const PAGE_CACHE_PROBES: &[&str] = &["mm_filemap_fault", "mm_filemap_get_pages", "mm_filemap_map_pages"];
/// The kernels before 6.18 may report the range of a mapping wrongly.
const PRE_CONTENT: &[&str] = &["pre-content", "pre-content (whole files)"];
/// The answer to a permission event takes an errno from Linux 6.14 on (`FAN_ERRNO`, include/uapi/linux/fanotify.h).
const EIO: &str = "EIO";
const EPERM: &str = "EPERM";
const STOP: &[&str] = &["stop"];
/// tmpfs has O_DIRECT from Linux 6.6 on (`shmem_file_open`, mm/shmem.c).
const NO_DIRECT: &[&str] = &["o-direct"];

/// In order of versions.
const EXPECTATIONS: [Expectation; 4] = [
    Expectation {
        since: (6, 1),
        missing: PAGE_CACHE_PROBES,
        denial: EPERM,
        ext4: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: &[] },
        tmpfs: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: NO_DIRECT },
    },
    Expectation {
        since: (6, 6),
        missing: PAGE_CACHE_PROBES,
        denial: EPERM,
        ext4: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: &[] },
        tmpfs: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: &[] },
    },
    Expectation {
        since: (6, 12),
        missing: &[],
        denial: EPERM,
        ext4: On { gates: STOP, reads: Seen::Pages, faults: Seen::Windows, refused: &[] },
        tmpfs: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: &[] },
    },
    Expectation {
        since: (6, 14),
        missing: &[],
        denial: EIO,
        ext4: On { gates: PRE_CONTENT, reads: Seen::Pages, faults: Seen::Windows, refused: &[] },
        tmpfs: On { gates: STOP, reads: Seen::Exact, faults: Seen::Windows, refused: &[] },
    },
];

/// The patterns that tell how finely reads and faults are seen.
pub(crate) const READS: &str = "strided pread of 4 threads";
pub(crate) const FAULTS: &str = "mmap";
/// The checks on each file system, by their names in [`verdicts`].
const CHECKS: [&str; 7] = ["sequential read", READS, FAULTS, "readers", "probes", "denied", "taken over"];
/// The one beside them where processes are stopped: the same readers, held at open(2).
const AT_OPEN: &str = "readers at open(2)";
/// The gate of it.
pub(crate) const OPEN: &str = "open";
/// The file systems they are made on.
pub(crate) const FILE_SYSTEMS: [&str; 2] = ["ext4", "tmpfs"];

/// Name of a check, and what was wrong with it.
pub(crate) type Verdict = (String, Result<(), String>);

/// One for each check that was made or should have been.
pub(crate) fn verdicts(lines: &[Line]) -> Vec<Verdict> {
    let Some(version) = version(lines) else {
        return vec![("kernel".to_owned(), Err("the machine told nothing".to_owned()))];
    };
    let Some(expected) = expectation(version) else {
        let why = format!("nothing is known of Linux {version}; vm/expect.rs begins at 6.1");
        return vec![("kernel".to_owned(), Err(why))];
    };
    let mut verdicts: Vec<Verdict> = lines.iter().filter_map(|line| judge(expected, line)).collect();
    let locks_down = matches!(lines.first(), Some(Line::Kernel { locks_down: true, .. }));
    let due = FILE_SYSTEMS.iter().flat_map(|file_system| {
        let at_open = (on(expected, file_system).gates == STOP).then_some(AT_OPEN);
        CHECKS.into_iter().chain(at_open).map(|check| name(check, file_system)).collect::<Vec<_>>()
    });
    let last = [Some(DOCTOR), locks_down.then_some(LOCKED_DOWN)];
    for name in due.chain(last.into_iter().flatten().map(str::to_owned)) {
        if !verdicts.iter().any(|(made, _)| *made == name) {
            verdicts.push((name, Err("was not made".to_owned())));
        }
    }
    if !matches!(lines.last(), Some(Line::End { .. })) {
        verdicts.push(("end".to_owned(), Err("the machine ended before its checks did".to_owned())));
    }
    verdicts
}

/// As the machine told it.
pub(crate) fn version(lines: &[Line]) -> Option<&str> {
    lines.iter().find_map(|line| match line {
        Line::Kernel { version, .. } => Some(version.as_str()),
        _ => None,
    })
}

/// What holds for a version such as `6.1.192`.
fn expectation(version: &str) -> Option<&'static Expectation> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    EXPECTATIONS.iter().rfind(|expectation| expectation.since <= version)
}

fn judge(expected: &Expectation, line: &Line) -> Option<Verdict> {
    let on = |file_system: &str| on(expected, file_system);
    Some(match line {
        Line::Kernel { .. } | Line::End { .. } => return None,
        Line::Broken { name, error } => (name.clone(), Err(error.clone())),
        Line::Probes(probes) => (name("probes", &probes.file_system), judge_probes(expected, probes)),
        Line::Trace(trace) => {
            (name(&trace.pattern, &trace.file_system), judge_trace(on(&trace.file_system), trace))
        }
        Line::Denied(denied) => (name("denied", &denied.file_system), judge_denial(expected, denied)),
        Line::TakenOver(taken) => (name("taken over", &taken.file_system), Ok(())),
        Line::Doctor(doctor) => {
            let name = if doctor.locked_down { LOCKED_DOWN } else { DOCTOR };
            (name.to_owned(), judge_doctor(expected, doctor))
        }
        Line::Readers(readers) if readers.gate == OPEN => {
            (name(AT_OPEN, &readers.file_system), judge_readers(on(&readers.file_system), readers, &[OPEN]))
        }
        Line::Readers(readers) => (
            name("readers", &readers.file_system),
            judge_readers(on(&readers.file_system), readers, on(&readers.file_system).gates),
        ),
    })
}

fn on<'a>(expected: &'a Expectation, file_system: &str) -> &'a On {
    if file_system == "tmpfs" { &expected.tmpfs } else { &expected.ext4 }
}

fn name(check: &str, file_system: &str) -> String {
    format!("{check} on {file_system}")
}

fn judge_probes(expected: &Expectation, probes: &Probes) -> Result<(), String> {
    match probes {
        Probes { attached: 0, .. } => Err("no probe was attached".to_owned()),
        Probes { missing, .. } if missing != expected.missing => {
            Err(format!("missing are {missing:?}, expected {:?}", expected.missing))
        }
        Probes { .. } => Ok(()),
    }
}

fn judge_denial(expected: &Expectation, denied: &Denied) -> Result<(), String> {
    if denied.errno == expected.denial {
        return Ok(());
    }
    Err(format!("a reader got {}, expected {}", denied.errno, expected.denial))
}

fn judge_trace(expected: &On, trace: &Trace) -> Result<(), String> {
    let wanted = match trace.pattern.as_str() {
        FAULTS => expected.faults,
        // The whole file is whole pages.
        "sequential read" => Seen::Exact,
        _ => expected.reads,
    };
    if trace.seen == wanted {
        return Ok(());
    }
    Err(format!("seen: {:?}, expected {wanted:?}. {}", trace.seen, trace.detail))
}

fn judge_readers(expected: &On, readers: &Readers, gates: &[&str]) -> Result<(), String> {
    if !readers.not_right.is_empty() {
        return Err(format!("not every byte was right: {:#?}", readers.not_right));
    }
    if !gates.contains(&readers.gate.as_str()) {
        return Err(format!("the gate is {}, expected {}", readers.gate, gates.join(" or ")));
    }
    if readers.refused != expected.refused {
        return Err(format!("the kernel refuses {:?}, expected {:?}", readers.refused, expected.refused));
    }
    if readers.held == 0 || readers.readers == 0 {
        return Err("nobody was held, so nothing is proved".to_owned());
    }
    Ok(())
}

fn judge_doctor(expected: &Expectation, doctor: &Doctor) -> Result<(), String> {
    if !doctor.failed.is_empty() {
        return Err(format!("failed: {}", doctor.failed.join(", ")));
    }
    // Nobody can be stopped by eBPF programs that may not be loaded.
    let gates = if doctor.locked_down && expected.ext4.gates == STOP { &[OPEN] } else { expected.ext4.gates };
    if !gates.iter().any(|gate| doctor.gate.starts_with(gate)) {
        return Err(format!("the gate is {}, expected {}", doctor.gate, gates.join(" or ")));
    }
    let wanted = if doctor.locked_down { "warn" } else { "ok" };
    if doctor.lockdown != wanted || doctor.ebpf != wanted {
        let warned = doctor.warned.join(", ");
        return Err(format!(
            "lockdown {}, eBPF {}, expected {wanted}; warned: {warned}",
            doctor.lockdown, doctor.ebpf
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::TakenOver;
    use super::*;

    /// What a machine says where all is as it should be on Linux 6.12.
    fn lines() -> Vec<Line> {
        let mut lines = vec![Line::Kernel { version: "6.12.3".to_owned(), locks_down: true }];
        for (file_system, reads) in [("ext4", Seen::Pages), ("tmpfs", Seen::Exact)] {
            let file_system = file_system.to_owned();
            let trace = |pattern: &str, seen| {
                let (pattern, detail) = (pattern.to_owned(), String::new());
                Line::Trace(Trace { file_system: file_system.clone(), pattern, seen, detail })
            };
            lines.push(trace("sequential read", Seen::Exact));
            lines.push(trace("strided pread of 4 threads", reads));
            lines.push(trace("mmap", Seen::Windows));
            for gate in ["stop", "open"] {
                lines.push(Line::Readers(Readers {
                    file_system: file_system.clone(),
                    gate: gate.to_owned(),
                    kinds: vec!["read".to_owned()],
                    refused: Vec::new(),
                    readers: 1,
                    held: 1,
                    not_right: Vec::new(),
                    ms: 1,
                }));
            }
            let probes = Probes { file_system: file_system.clone(), attached: 8, missing: Vec::new() };
            lines.push(Line::Probes(probes));
            lines.push(Line::Denied(Denied { file_system: file_system.clone(), errno: EPERM.to_owned() }));
            lines.push(Line::TakenOver(TakenOver { file_system }));
        }
        for locked_down in [false, true] {
            let verdict = if locked_down { "warn" } else { "ok" }.to_owned();
            let gate = if locked_down { "open: readers wait" } else { "stop: each read" }.to_owned();
            let (failed, warned) = (Vec::new(), Vec::new());
            lines.push(Line::Doctor(Doctor {
                locked_down,
                gate,
                lockdown: verdict.clone(),
                ebpf: verdict,
                failed,
                warned,
            }));
        }
        lines.push(Line::End { ms: 2 });
        lines
    }

    fn failures(lines: &[Line]) -> Vec<String> {
        verdicts(lines).into_iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_as_expected_passes() {
        assert_eq!(failures(&lines()), [""; 0]);
        assert_eq!(verdicts(&lines()).len(), 18);
    }

    #[test]
    fn each_difference_fails_its_check() {
        for (index, was, is, failure) in [
            (2, r#""seen":"pages""#, r#""seen":"exact""#, "strided pread of 4 threads on ext4"),
            (3, r#""seen":"windows""#, r#""seen":"nothing""#, "mmap on ext4"),
            (4, r#""not_right":[]"#, r#""not_right":["a wrong byte"]"#, "readers on ext4"),
            (4, r#""gate":"stop""#, r#""gate":"pre-content""#, "readers on ext4"),
            (5, r#""not_right":[]"#, r#""not_right":["a wrong byte"]"#, "readers at open(2) on ext4"),
            (7, r#""errno":"EPERM""#, r#""errno":"EIO""#, "denied on ext4"),
            (12, r#""held":1"#, r#""held":0"#, "readers on tmpfs"),
            (14, r#""missing":[]"#, r#""missing":["mm_filemap_fault"]"#, "probes on tmpfs"),
            (17, r#""ebpf":"ok""#, r#""ebpf":"warn""#, DOCTOR),
            (17, r#""failed":[]"#, r#""failed":["clock"]"#, DOCTOR),
            (18, r#""lockdown":"warn""#, r#""lockdown":"ok""#, LOCKED_DOWN),
        ] {
            let mut lines = lines();
            let text = serde_json::to_string(&lines[index]).unwrap();
            assert!(text.contains(was), "{text}");
            lines[index] = serde_json::from_str(&text.replace(was, is)).unwrap();
            assert_eq!(failures(&lines), [failure]);
        }
    }

    #[test]
    fn a_check_that_was_not_made_fails() {
        let mut told = lines();
        told.truncate(3);
        assert_eq!(failures(&told).len(), 17);
        assert_eq!(failures(&[]), ["kernel"]);
        told[0] = Line::Kernel { version: "5.10.1".to_owned(), locks_down: true };
        assert_eq!(failures(&told), ["kernel"]);
    }

    #[test]
    fn the_nearest_older_version_counts() {
        let since = |version| expectation(version).map(|expectation| expectation.since);
        assert_eq!(since("6.1.192"), Some((6, 1)));
        assert_eq!(since("6.11.0"), Some((6, 6)));
        assert_eq!(since("6.18.44"), Some((6, 14)));
        assert_eq!(since("7.0.1"), Some((6, 14)));
        assert_eq!(since("5.15.0"), None);
    }
}
