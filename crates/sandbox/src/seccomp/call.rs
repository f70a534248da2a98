//! Rows of a profile: one system call each, with any arguments or some.

use libc::SYS_ioctl;

/// A call that is allowed, always or with some arguments. Rows of the same call add up; they are compared in the order in which they
/// stand, so that a frequent one belongs in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub(super) number: i64,
    pub(super) condition: Option<Condition>,
}

/// What an argument must be. The upper halves of arguments are not looked at: the calls in question ignore them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Some bits of it have this value.
    Bits { index: u8, mask: u32, value: u32 },
    /// It is the number of this process.
    OwnProcess { index: u8 },
}

impl Condition {
    /// Whether all that `other` allows is allowed by this one.
    pub(super) fn covers(self, other: Self) -> bool {
        match (self, other) {
            (
                Self::Bits { index, mask, value },
                Self::Bits { index: other_index, mask: other_mask, value: other_value },
            ) => index == other_index && mask & other_mask == mask && mask & other_value == value,
            _ => self == other,
        }
    }
}

/// The call `number` (`libc::SYS_…`), whatever its arguments.
#[must_use]
pub const fn any(number: i64) -> Call {
    Call { number, condition: None }
}

/// The call `number` if its argument `index`, from 0 to 5, has `value` in the bits of `mask`.
#[must_use]
pub const fn bits(number: i64, index: u8, mask: u32, value: u32) -> Call {
    assert!(index < 6, "a system call has six arguments");
    assert!(value & !mask == 0, "a bit outside of the mask never matches");
    Call { number, condition: Some(Condition::Bits { index, mask, value }) }
}

/// The call `number` if its argument `index`, from 0 to 5, is `value`.
#[must_use]
pub const fn equal(number: i64, index: u8, value: i32) -> Call {
    bits(number, index, u32::MAX, value.cast_unsigned())
}

/// The call `number` if its argument `index`, from 0 to 5, is this process.
#[must_use]
pub const fn own_process(number: i64, index: u8) -> Call {
    assert!(index < 6, "a system call has six arguments");
    Call { number, condition: Some(Condition::OwnProcess { index }) }
}

/// An ioctl by the type and number of its request; direction and size, in the upper half, follow from them.
#[must_use]
pub const fn ioctl(request: u32) -> Call {
    bits(SYS_ioctl, 1, 0xffff, request & 0xffff)
}

/// All ioctls of a type.
#[must_use]
pub const fn ioctls_of(kind: u8) -> Call {
    bits(SYS_ioctl, 1, 0xff00, (kind as u32) << 8)
}
