//! What the AML of several hot-plug controllers has in common.

use acpi_tables::Aml;
use acpi_tables::aml::{Acquire, Method, Path, Release};
use device::aml::encode;

/// A notification (ACPI 6.4 §5.6.6): look whether a device has come.
pub(super) const DEVICE_CHECK: u8 = 1;
/// A notification: let go of the device.
pub(super) const EJECT_REQUEST: u8 = 3;

/// A method that has the registers for itself during `steps`, by the mutex at `lock`, and ends with `last`.
pub(super) fn locked(
    lock: &str,
    path: &str,
    args: u8,
    steps: Vec<&dyn Aml>,
    last: Option<&dyn Aml>,
) -> Vec<u8> {
    const FOREVER: u16 = 0xffff;
    let (acquire, release) = (Acquire::new(Path::new(lock), FOREVER), Release::new(Path::new(lock)));
    let mut body: Vec<&dyn Aml> = vec![&acquire];
    body.extend(steps);
    body.push(&release);
    body.extend(last);
    encode(&Method::new(Path::new(path), args, true, body))
}
