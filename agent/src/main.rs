//! Parses the command line and hands over to a command.

fn main() -> std::process::ExitCode {
    penstock::command::main()
}
