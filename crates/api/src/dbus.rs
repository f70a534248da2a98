//! The table's names on D-Bus (`spec/dbus.md` §2): a verb is a method, a code an error's name. The door and its clients read them here.

use crate::{Code, VERBS, Verb};

/// The interface that has all methods and the signal.
pub const INTERFACE: &str = "org.cloudhypervisor.DBusApi1";
/// The signal that carries an event's record as JSON.
pub const EVENT: &str = "Event";
/// What follows a method's name when descriptors come with the call.
pub const WITH_FDS: &str = "WithFds";
/// What stands before the name of a code in an error's name.
pub const ERRORS: &str = "org.cloudhypervisor.DBusApi1.Error.";

/// A way to call a verb.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The verb.
    pub verb: &'static Verb,
    /// Whether an array of descriptors follows the body.
    pub with_fds: bool,
}

impl Method {
    /// The method that calls `verb`, with or without descriptors.
    pub fn of(verb: &'static Verb, with_fds: bool) -> Self {
        Self { verb, with_fds }
    }

    /// All methods, in the order of [`VERBS`].
    pub fn all() -> impl Iterator<Item = Self> {
        VERBS.iter().flat_map(|verb| {
            let second = verb.takes_descriptors.then(|| Self::of(verb, true));
            std::iter::once(Self::of(verb, false)).chain(second)
        })
    }

    /// The method of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|method| method.name() == name)
    }

    /// Its name, such as `VmAddNetWithFds`.
    pub fn name(&self) -> String {
        pascal_case(self.verb.name) + if self.with_fds { WITH_FDS } else { "" }
    }
}

impl Code {
    /// The name of a D-Bus error with this code, such as `org.cloudhypervisor.DBusApi1.Error.VmNotCreated`.
    pub fn dbus_name(self) -> String {
        ERRORS.to_owned() + &pascal_case(self.parts().1)
    }

    /// The code of a D-Bus error. Servers of other versions may know more names.
    pub fn of_dbus_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.dbus_name() == name)
    }
}

/// `vm.add-disk` as `VmAddDisk`.
pub(crate) fn pascal_case(name: &str) -> String {
    let words = name.split(['.', '-', '_']).map(str::chars);
    words
        .flat_map(|mut word| word.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(word))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_and_lead_back() {
        for method in Method::all() {
            let found = Method::find(&method.name()).unwrap();
            assert_eq!((found.verb.name, found.with_fds), (method.verb.name, method.with_fds));
        }
        let names = |name: &str| {
            let all = Method::all().filter(|method| method.verb.name == name);
            all.map(|method| method.name()).collect::<Vec<_>>()
        };
        assert_eq!(names("vm.resize-disk"), ["VmResizeDisk"]);
        assert_eq!(names("vmm.ping"), ["VmmPing"]);
        assert_eq!(names("vm.add-net"), ["VmAddNet", "VmAddNetWithFds"]);
        assert!(Method::find("VmResizeDiskWithFds").is_none() && Method::find("").is_none());
    }

    #[test]
    fn codes_are_told_by_name() {
        assert_eq!(Code::VmNotCreated.dbus_name(), "org.cloudhypervisor.DBusApi1.Error.VmNotCreated");
        for code in Code::ALL {
            assert_eq!(Code::of_dbus_name(&code.dbus_name()), Some(code));
        }
        assert_eq!(Code::of_dbus_name("org.freedesktop.DBus.Error.Failed"), None);
    }
}
