//! Arguments → one command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    crane_supervisor::cli::run(std::env::args_os())
}
