//! docs/cli.md: the help of every command, as the program prints it. The example of the same name writes it, and a test
//! here fails when it is not what the program says.

use std::fmt::Write as _;

/// Columns, whatever terminal it is written in.
const WIDTH: usize = 100;

const HEAD: &str = "# Commands

What `ossc-agent --help` and the help of each command say. Made by `cargo run -p ossc-agent --example reference >
docs/cli.md`; variables of the environment and keys of the configuration file stand in
[configuration.md](configuration.md).
";

/// The whole document.
#[must_use]
pub fn reference() -> String {
    let mut command = super::command();
    command.build();
    let mut text = HEAD.to_owned();
    describe(&command, "ossc-agent", &mut text);
    text
}

fn describe(command: &clap::Command, name: &str, text: &mut String) {
    let help = command.clone().term_width(WIDTH).render_long_help().to_string();
    // Writing to a String cannot fail.
    write!(text, "\n## {name}\n\n```text\n").unwrap_or_default();
    for line in help.trim_end().lines() {
        writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    }
    text.push_str("```\n");
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        describe(below, &format!("{name} {}", below.get_name()), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_what_the_program_says() {
        let (written, said) = (include_str!("../../../docs/cli.md"), reference());
        let line = written.lines().zip(said.lines()).find(|(written, said)| written != said);
        assert!(
            written == said,
            "docs/cli.md differs ({line:?}): cargo run -p ossc-agent --example reference > docs/cli.md"
        );
        for command in ["trace", "peers issue", "doctor", "plan show", "verify", "status", "evict"] {
            assert!(said.contains(&format!("\n## ossc-agent {command}\n")), "{command}");
        }
    }
}
