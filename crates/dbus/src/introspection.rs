//! What the interface looks like to tools, written from the command table (D-Bus specification, "Introspection Data Format").

use std::fmt::{self, Write};

use api::dbus::{EVENT, INTERFACE, Method};

/// The types of a method's body and of the descriptors behind it.
pub(crate) const BODY: &str = "s";
/// The types of a body with descriptors.
pub(crate) const BODY_WITH_FDS: &str = "sah";

/// Writes the interface's element, `level` spaces to the right.
///
/// # Errors
/// The writer's.
pub(crate) fn write(writer: &mut dyn Write, level: usize) -> fmt::Result {
    writeln!(writer, "{:level$}<interface name=\"{INTERFACE}\">", "")?;
    let inner = level + 2;
    for method in Method::all() {
        writeln!(writer, "{:inner$}<method name=\"{}\">", "", method.name())?;
        if method.verb.has_body {
            argument(writer, inner, &body_name(method.verb.name), "s", " direction=\"in\"")?;
        }
        if method.with_fds {
            argument(writer, inner, "descriptors", "ah", " direction=\"in\"")?;
        }
        if method.verb.has_reply {
            argument(writer, inner, "reply", "s", " direction=\"out\"")?;
        }
        writeln!(writer, "{:inner$}</method>", "")?;
    }
    writeln!(writer, "{:inner$}<signal name=\"{EVENT}\">", "")?;
    argument(writer, inner, "record", "s", "")?;
    writeln!(writer, "{:inner$}</signal>\n{:level$}</interface>", "", "")
}

fn argument(writer: &mut dyn Write, level: usize, name: &str, kind: &str, direction: &str) -> fmt::Result {
    let level = level + 2;
    writeln!(writer, "{:level$}<arg name=\"{name}\" type=\"{kind}\"{direction}/>", "")
}

/// `vm.add-disk` takes a `disk_config`, `vm.resize-zone` a `vm_resize_zone`.
fn body_name(verb: &str) -> String {
    let (name, end) = verb.strip_prefix("vm.add-").map_or((verb, ""), |device| (device, "_config"));
    name.replace(['.', '-'], "_") + end
}
