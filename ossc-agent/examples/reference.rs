//! Prints docs/cli.md.

fn main() {
    print!("{}", ossc_agent::cli::reference());
}
