//! What comes with a call: the bytes of its body, and descriptors that were sent along (`spec/rest-api.md` §1 "FDs").

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use config::{DeviceConfig, NetConfig, RestoreConfig, VmReceiveMigrationData};
#[cfg(feature = "schema")]
use schemars::{Schema, SchemaGenerator};

use crate::verb::{Body, Json};
use crate::{ApiError, Code};

/// The most bytes a body has.
pub const MAX_BODY: usize = 4 << 20;
/// The most descriptors that come with one call: what the kernel lets one message carry.
pub const MAX_DESCRIPTORS: usize = 253;

/// A call as a door received it.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// JSON, or nothing.
    pub body: &'a [u8],
    /// Descriptors in the order in which they were sent. Those that nobody takes are closed.
    pub descriptors: Vec<OwnedFd>,
}

impl<'a> From<&'a [u8]> for Request<'a> {
    fn from(body: &'a [u8]) -> Self {
        Self { body, descriptors: Vec::new() }
    }
}

impl Request<'_> {
    /// Refuses any number of descriptors outside `wanted`.
    ///
    /// # Errors
    /// [`Code::BadRequest`].
    pub(crate) fn want(&self, wanted: RangeInclusive<usize>) -> Result<(), ApiError> {
        let sent = self.descriptors.len();
        if wanted.contains(&sent) {
            return Ok(());
        }
        let wanted = match (wanted.start(), wanted.end()) {
            (0, 0) => "none".into(),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let why = format!("{sent} file descriptors came with this call: send {wanted}");
        Err(ApiError::new(Code::BadRequest, ["Bad Request".into(), why]))
    }
}

/// A body with the descriptors that belong to it.
#[derive(Debug)]
pub struct With<T> {
    /// The body. Descriptor numbers in it mean nothing.
    pub body: T,
    /// As many as the body wants.
    pub descriptors: Vec<OwnedFd>,
}

/// A body that descriptors may come with.
pub trait WantsDescriptors {
    /// How many.
    fn wanted(&self) -> RangeInclusive<usize>;
}

impl<T: Json + WantsDescriptors> Body for With<T> {
    const DESCRIPTORS: bool = true;

    #[cfg(feature = "schema")]
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        T::schema(generator)
    }

    fn parse(request: Request<'_>) -> Result<(Self, Vec<String>), ApiError> {
        let (body, unknown_fields) = T::parse(request.body.into())?;
        request.want(body.wanted())?;
        Ok((Self { body, descriptors: request.descriptors }, unknown_fields))
    }
}

impl WantsDescriptors for NetConfig {
    /// One for each queue pair of an open tap; that the numbers match is a rule of the section.
    fn wanted(&self) -> RangeInclusive<usize> {
        0..=MAX_DESCRIPTORS
    }
}

impl WantsDescriptors for DeviceConfig {
    fn wanted(&self) -> RangeInclusive<usize> {
        0..=1
    }
}

impl WantsDescriptors for RestoreConfig {
    fn wanted(&self) -> RangeInclusive<usize> {
        let nets = self.net_fds.iter().flatten().fold(0, |sum: usize, net| sum.saturating_add(net.num_fds));
        exactly(nets.saturating_add(vfio_and_iommufd(self.vfio_fds.as_deref())))
    }
}

impl WantsDescriptors for VmReceiveMigrationData {
    fn wanted(&self) -> RangeInclusive<usize> {
        exactly(vfio_and_iommufd(self.vfio_fds.as_deref()))
    }
}

fn exactly(count: usize) -> RangeInclusive<usize> {
    count..=count
}

/// An iommufd follows the devices' descriptors, even if there are none.
fn vfio_and_iommufd<T>(devices: Option<&[T]>) -> usize {
    devices.map_or(0, |devices| devices.len().saturating_add(1))
}
