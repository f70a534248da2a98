//! Landlock: a thread, and all it starts from then on, opens no files but those it was granted. What is open stays open. Rules only add
//! up: a second confinement can take away, never give back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, make_bitflags,
};
use thiserror::Error;

/// What the rules are about: everything that Linux 6.2 knows.
const LEVEL: ABI = ABI::V3;

/// What may be done with a file, or with all files below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// `r`: reading, listing, executing.
    Read,
    /// `w`: writing, truncating, making and removing.
    Write,
    /// `rw`.
    ReadWrite,
    /// Making sockets in a directory, and removing files there.
    Bind,
    /// Removing files in a directory.
    Remove,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::from_read(LEVEL),
            Self::Write => AccessFs::from_write(LEVEL),
            Self::ReadWrite => AccessFs::from_read(LEVEL) | AccessFs::from_write(LEVEL),
            Self::Bind => make_bitflags!(AccessFs::{MakeSock | RemoveFile}),
            Self::Remove => AccessFs::RemoveFile.into(),
        }
    }
}

/// A file, or all below a directory, that stays usable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Where it is. It exists when it is granted.
    pub path: PathBuf,
    /// What for.
    pub access: Access,
}

impl Grant {
    /// Leave to use `path`.
    pub fn new(path: impl Into<PathBuf>, access: Access) -> Self {
        Self { path: path.into(), access }
    }

    /// Leave to use the directory that `path` is in: a rule cannot name what comes and goes.
    pub fn directory_of(path: &Path, access: Access) -> Self {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::new(parent.unwrap_or(Path::new(".")), access)
    }
}

/// Why files cannot be confined.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The kernel lacks it.
    #[error(
        "This kernel offers no Landlock of version 3: boot Linux 6.2 or later with 'landlock' in its list of security modules, or do \
         without Landlock"
    )]
    Unsupported(#[source] landlock::RulesetError),
    /// A file that is to be granted.
    #[error("Cannot grant access to '{}': create it first", .path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A rule was refused.
    #[error("Cannot make a Landlock rule for '{}': grant the directory it is in", .path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: landlock::RulesetError,
    },
    /// The rules were refused as a whole.
    #[error("Cannot apply Landlock rules: 16 different sets in one process are the most, start a new one")]
    Apply(#[source] landlock::RulesetError),
}

/// Rules made and not applied yet.
#[derive(Debug)]
pub struct Confinement(RulesetCreated);

impl Confinement {
    /// Rules that leave `grants` and nothing else.
    ///
    /// # Errors
    /// [`FilesError`] names the path that does not exist, or says what the kernel lacks.
    pub fn new(grants: &[Grant]) -> Result<Self, FilesError> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let rules = rules.handle_access(AccessFs::from_read(LEVEL) | AccessFs::from_write(LEVEL));
        let mut rules = rules.and_then(Ruleset::create).map_err(FilesError::Unsupported)?;
        for Grant { path, access } in grants.iter().collect::<BTreeSet<_>>() {
            let refused = |source| FilesError::Path { path: path.clone(), source };
            let handle = File::options().read(true).custom_flags(libc::O_PATH).open(path).map_err(refused)?;
            let is_directory = handle.metadata().map_err(refused)?.is_dir();
            let rights =
                if is_directory { access.rights() } else { access.rights() & AccessFs::from_file(LEVEL) };
            let refused = |source| FilesError::Rule { path: path.clone(), source };
            rules = rules.add_rule(PathBeneath::new(handle, rights)).map_err(refused)?;
        }
        Ok(Self(rules))
    }

    /// Confines the calling thread and all it starts from now on.
    ///
    /// # Errors
    /// [`FilesError::Apply`]; the thread is as free as before then.
    pub fn enter(self) -> Result<(), FilesError> {
        self.0.restrict_self().map(drop).map_err(FilesError::Apply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    /// Runs `body` on a thread of its own: what it loses there does not come back.
    fn confined<T: Send>(grants: &[(&Path, Access)], body: impl FnOnce() -> T + Send) -> T {
        let grants: Vec<_> = grants.iter().map(|(path, access)| Grant::new(*path, *access)).collect();
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| {
                Confinement::new(&grants).unwrap().enter().unwrap();
                body()
            });
            ran.join().unwrap()
        })
    }

    fn denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn only_what_was_granted_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["read", "write", "other"] {
            fs::write(path(name), "text").unwrap();
        }
        fs::create_dir(path("below")).unwrap();
        let open = File::open(path("other")).unwrap();
        let grants = [
            (&*path("read"), Access::Read),
            (&*path("write"), Access::ReadWrite),
            (&*path("below"), Access::ReadWrite),
        ];
        confined(&grants, || {
            assert_eq!(fs::read_to_string(path("read")).unwrap(), "text");
            assert!(denied(fs::write(path("read"), "")));
            fs::write(path("write"), "longer text").unwrap();
            fs::write(path("below/new"), "text").unwrap();
            fs::remove_file(path("below/new")).unwrap();
            assert!(denied(fs::read(path("other"))));
            assert!(denied(fs::write(path("new"), "")));
            assert!(denied(fs::remove_file(path("other"))));
            assert_eq!(io::read_to_string(&open).unwrap(), "text");
        });
        assert_eq!(fs::read_to_string(path("other")).unwrap(), "text");
    }

    #[test]
    fn a_directory_of_sockets_gives_no_files_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "text").unwrap();
        confined(&[(dir.path(), Access::Bind)], || {
            for _ in 0..2 {
                drop(UnixListener::bind(dir.path().join("socket")).unwrap());
                fs::remove_file(dir.path().join("socket")).unwrap();
            }
            assert!(denied(fs::read(dir.path().join("file"))));
            assert!(denied(fs::write(dir.path().join("file"), "")));
        });
    }

    #[test]
    fn threads_inherit_and_nothing_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        confined(&[], || {
            std::thread::scope(|scope| scope.spawn(|| assert!(denied(fs::read(&file)))).join().unwrap());
            Confinement::new(&[Grant::new(&file, Access::Read)]).unwrap().enter().unwrap();
            assert!(denied(fs::read(&file)));
        });
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let grant = Grant::new("/no/such/file", Access::Read);
        let error = Confinement::new(&[grant]).unwrap_err();
        assert!(matches!(error, FilesError::Path { .. }), "{error:?}");
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
