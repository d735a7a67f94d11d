//! What is set about a control socket, which is not made.

use std::env;
use std::path::{Component, Path, PathBuf};

use hotupdate_proto::environment;

use crate::error::{Error, Result};

/// The path at which the service `name` would have its control socket: `$HOTUPDATE_SOCKET`, or one in the
/// directory for temporary files. Nothing is made there, since on this system no version takes over from
/// another one. On Linux it is where operators look for it.
///
/// # Errors
/// [`ApiMisuse`](crate::ErrorKind::ApiMisuse) if `name` cannot be that of a directory.
pub fn control_path(name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => {}
        _ => {
            let why = "it is to be the name of a directory: not empty, without slashes";
            return Err(Error::misuse(format!("the name {name:?} of a service"), why));
        }
    }
    let set = env::var_os(environment::SOCKET).filter(|path| !path.is_empty());
    Ok(set.map_or_else(|| env::temp_dir().join(name).join("control.sock"), PathBuf::from))
}

/// Users that the application named. None of them can connect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    pub(crate) operators: Vec<u32>,
    pub(crate) successors: Vec<u32>,
    pub(crate) predecessors: Vec<u32>,
    pub(crate) runs_as: Option<u32>,
}
