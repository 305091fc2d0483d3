//! `penstock schema`: which version of a schema reads which, and what a change would break.

mod check;
mod input;
mod matrix;

use clap::Subcommand;

use crate::exit::Failure;

/// Compare versions of Avro schemas and of Protobuf messages.
///
/// A version is a file: an Avro schema (.avsc), or a Protobuf descriptor set (.binpb, .desc, .fds,
/// .pb, .protobin, .protoset) as `protoc -o FILE --include_imports` and `buf build -o FILE` write it.
///
/// Two versions are full where each reads what the other wrote, backward where only the newer reads
/// the older's, forward where only the older reads the newer's, and none where neither does. For
/// Avro that is schema resolution, defaults, aliases and promotions included; for Protobuf it is
/// what the wire form allows, and a field number that is given up without being reserved counts
/// as a break.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Matrix(matrix::Arguments),
    Check(check::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Matrix(arguments) => matrix::run(arguments),
        Command::Check(arguments) => check::run(arguments),
    }
}
