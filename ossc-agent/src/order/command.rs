//! What an order is learned for: the name of a command. Different commands read a model differently, the same one
//! alike from run to run, so the name has what decides the reading and leaves out what changes: it is the program,
//! and for an interpreter also the script or module. Other arguments stay out; they may hold secrets. Pure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Programs that are only the vehicle of another: by what their names begin with, as versions follow.
const INTERPRETERS: [&str; 7] = ["python", "pypy", "node", "ruby", "perl", "bash", "sh"];
/// Longest name kept, in bytes.
pub(super) const MAX_NAME: usize = 200;

/// The name of the command with these words, program first. None without a program.
#[must_use]
pub fn command_name(words: &[OsString]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let mut name = base_name(program);
    if INTERPRETERS.iter().any(|interpreter| is_version_of(&name, interpreter)) {
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "-m" {
                name.push_str(" -m ");
                name.extend(arguments.next().map(|module| base_name(module)));
            } else if argument == "-c" {
                name.push_str(" -c");
            } else if argument.as_encoded_bytes().starts_with(b"-") {
                continue;
            } else {
                name.push(' ');
                name.push_str(&base_name(argument));
            }
            break;
        }
    }
    name.truncate(name.floor_char_boundary(MAX_NAME));
    Some(name)
}

/// `python` and `python3.13` are, `pythonic` is not.
fn is_version_of(name: &str, interpreter: &str) -> bool {
    let version = name.strip_prefix(interpreter);
    version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// The last component of a path, without characters that would confuse a terminal.
fn base_name(path: &OsStr) -> String {
    let name = Path::new(path).file_name().unwrap_or(path).to_string_lossy();
    name.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_by_what_decides_their_reading() {
        for (line, name) in [
            ("/usr/bin/llama-server -m /models/a.gguf --api-key secret", "llama-server"),
            (
                "python3.13 -u -m vllm.entrypoints.openai.api_server --model /m",
                "python3.13 -m vllm.entrypoints.openai.api_server",
            ),
            ("/opt/venv/bin/python -O /srv/serve.py --port 80", "python serve.py"),
            ("python3 -c print()", "python3 -c"),
            ("bash run.sh", "bash run.sh"),
            ("python3", "python3"),
            ("pythonic serve.py", "pythonic"),
            ("shred file", "shred"),
            ("/", "/"),
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(command_name(&words).as_deref(), Some(name), "{line}");
        }
        assert_eq!(command_name(&[]), None);
        assert_eq!(command_name(&["a\u{1b}[2Jb".into()]).as_deref(), Some("a?[2Jb"));
        assert_eq!(command_name(&["é".repeat(200).into()]).map(|name| name.len()), Some(MAX_NAME));
    }
}
