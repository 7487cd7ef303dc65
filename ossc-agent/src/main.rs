//! Entry point of `ossc-agent`: hands over to the library's door and ends with its status.

use ossc_agent::cli::{self, Exit};

fn main() -> Exit {
    cli::run()
}
