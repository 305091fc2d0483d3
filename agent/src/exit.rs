//! Exit codes follow sysexits.h, so that a service manager and a script can tell mistakes apart.

/// Why the process ends. `Ok` is 0; the rest are the numbers of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// EX_USAGE: the command line is wrong.
    Usage = 64,
    /// EX_DATAERR: what is stored is damaged.
    Data = 65,
    /// EX_NOINPUT: an input file is missing or unreadable.
    NoInput = 66,
    /// EX_UNAVAILABLE: something needed is not there (a port in use, no eBPF where required).
    Unavailable = 69,
    /// EX_SOFTWARE: our own bug.
    Software = 70,
    /// EX_IOERR: reading or writing failed (a full disk at start).
    Io = 74,
    /// EX_TEMPFAIL: the data folder is in use by another agent.
    InUse = 75,
    /// EX_NOPERM: a permission is missing.
    Permission = 77,
    /// EX_CONFIG: the configuration is wrong.
    Config = 78,
}

impl Exit {
    /// The other way round, for what came over the control socket.
    pub fn of(code: u8) -> Option<Self> {
        let all = [
            Self::Ok,
            Self::Usage,
            Self::Data,
            Self::NoInput,
            Self::Unavailable,
            Self::Software,
            Self::Io,
            Self::InUse,
            Self::Permission,
            Self::Config,
        ];
        all.into_iter().find(|exit| *exit as u8 == code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One clear line for the person at the terminal, and the code for the script.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// An environment failure: names the call and what to do, with the code its kind calls for.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let exit = match error.kind() {
            ErrorKind::PermissionDenied => Exit::Permission,
            ErrorKind::NotFound => Exit::NoInput,
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Exit::Unavailable,
            _ => Exit::Io,
        };
        Self::new(exit, format!("{what}: {error}"))
    }

    /// The same failure with a more telling message.
    pub fn with(self, message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            ..self
        }
    }
}
