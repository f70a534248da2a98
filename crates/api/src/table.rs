//! The command table: one line per verb.
//!
//! A line in `commands` becomes a variant of [`Command`], and the control loop's `match` must have an arm for it. A line in `reads`
//! becomes a method of [`Reads`].
//!
//! `may` lists what a verb can fail with that its states, body and place in the table do not tell already; the OpenAPI document
//! is made from it.

use std::sync::Arc;

use config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, RestoreConfig,
    UserDeviceConfig, VdpaConfig, VmCancelJob, VmConfig, VmCoredumpData, VmReceiveMigrationData,
    VmRemoveDevice, VmResize, VmResizeDisk, VmResizeZone, VmSendMigrationData, VmSnapshotConfig, VsockConfig,
};
#[cfg(feature = "schema")]
use schemars::{Schema, SchemaGenerator};

use crate::answer::{Outcome, Reply, Stopped};
use crate::channel::{Client, ReplyTo, answer};
#[cfg(feature = "schema")]
use crate::schema::Shape;
use crate::verb::{Body, CREATED, Done, MIGRATING, Method, NONE, NoBody, PAUSED, RUNNING, Verb, WORKING};
use crate::{
    ApiError, Code, Counters, EventLog, Jobs, Meters, PciDeviceInfo, Request, VmInfo, VmmPing, With,
};

/// Answers what is known without asking the control loop: a read never waits for a command.
pub trait Reads: Send + Sync {
    /// Who answers.
    fn vmm_ping(&self) -> VmmPing;
    /// The VM as last published.
    ///
    /// # Errors
    /// [`Code::VmNotCreated`].
    fn vm_info(&self) -> Result<VmInfo, ApiError>;
    /// The devices' counters as they are.
    ///
    /// # Errors
    /// [`Code::VmNotCreated`] or [`Code::IllegalState`].
    fn vm_counters(&self) -> Result<Counters, ApiError>;
    /// The jobs that run, and the last that have ended.
    fn vm_jobs(&self) -> Jobs {
        Jobs::default()
    }
    /// What a running machine counts besides, for metrics.
    fn vm_meters(&self) -> Option<Meters> {
        None
    }
    /// What has happened.
    fn events(&self) -> &Arc<EventLog>;
}

macro_rules! commands {
    (
        reads { $( $(#[doc = $rdoc:literal])+ $RName:ident -> $RReply:ty = $rname:literal GET, when $rwhen:expr, by $read:expr, else $rfails:literal; )+ }
        commands { $( $(#[doc = $doc:literal])+ $Name:ident($Body:ty) -> $Reply:ty = $name:literal PUT, when $when:expr $(, may [$($code:ident),+])?, else $fails:literal; )+ }
    ) => {
        /// A verb for the control loop, with its body and where its reply goes.
        pub enum Command {
            $( $(#[doc = $doc])+ $Name {
                /// The request.
                body: $Body,
                /// Where the reply goes.
                reply: ReplyTo<$Reply>,
            }, )+
        }

        impl Command {
            /// The command's line in the table.
            pub fn verb(&self) -> &'static Verb {
                match self {
                    $( Self::$Name { .. } => &verb::$Name, )+
                }
            }

            /// Answers the command with a failure.
            pub fn refuse(self, error: ApiError) {
                match self {
                    $( Self::$Name { reply, .. } => reply.send(Err(error)), )+
                }
            }
        }

        #[allow(non_upper_case_globals)]
        mod verb {
            use super::*;
            $( pub(super) static $RName: Verb = Verb {
                name: $rname,
                method: Method::Get,
                summary: concat!($($rdoc),+),
                fails: $rfails,
                when: $rwhen,
                has_body: NoBody::EXPECTED,
                takes_descriptors: NoBody::DESCRIPTORS,
                has_reply: <$RReply as Reply>::HAS_JSON,
                may: &[],
                start: |client, request, done| {
                    // A request that makes no sense is not the verb's failure.
                    let result = NoBody::parse(request).and_then(|_| {
                        let reply = $read(client.reads()).into_result();
                        reply.and_then(Reply::into_answer).map_err(|e| $RName.failure(e))
                    });
                    done(Outcome { result, unknown_fields: Vec::new() });
                },
            }; )+
            $( pub(super) static $Name: Verb = Verb {
                name: $name,
                method: Method::Put,
                summary: concat!($($doc),+),
                fails: $fails,
                when: $when,
                has_body: <$Body as Body>::EXPECTED,
                takes_descriptors: <$Body as Body>::DESCRIPTORS,
                has_reply: <$Reply as Reply>::HAS_JSON,
                may: &[$($(Code::$code),+)?],
                start: |client, request, done| start(client, request, done, &$Name, |body, reply| Command::$Name { body, reply }),
            }; )+
        }

        /// The types of every verb's body and reply, in the order of [`VERBS`].
        #[cfg(feature = "schema")]
        pub(crate) static SHAPES: &[Shape] = &[
            $(Shape::of::<NoBody, $RReply>(),)+
            $(Shape::of::<$Body, $Reply>(),)+
        ];

        /// All verbs.
        pub static VERBS: &[&Verb] = &[$(&verb::$RName,)+ $(&verb::$Name,)+];
    };
}

fn start<B: Body, R: Reply>(
    client: &Client,
    request: Request<'_>,
    done: Done,
    verb: &'static Verb,
    command: impl FnOnce(B, ReplyTo<R>) -> Command,
) {
    match B::parse(request) {
        Ok((body, unknown_fields)) => client.send(command(body, answer(verb, unknown_fields, done))),
        Err(error) => done(Outcome { result: Err(error), unknown_fields: Vec::new() }),
    }
}

/// Lets the table's reads fail or not.
trait IntoResult<T> {
    fn into_result(self) -> Result<T, ApiError>;
}

impl<T: Reply> IntoResult<T> for T {
    fn into_result(self) -> Result<T, ApiError> {
        Ok(self)
    }
}

impl<T: Reply> IntoResult<T> for Result<T, ApiError> {
    fn into_result(self) -> Self {
        self
    }
}

const ALWAYS: u8 = NONE | CREATED | RUNNING | PAUSED | MIGRATING | WORKING;
const BOOTED: u8 = RUNNING | PAUSED;
const PRESENT: u8 = CREATED | BOOTED;

commands! {
    reads {
        /// Tell who answers.
        VmmPing -> VmmPing = "vmm.ping" GET, when ALWAYS, by (|r: &dyn Reads| r.vmm_ping()), else "The VMM did not answer";
        /// Tell the VM's configuration, state and devices.
        VmInfo -> VmInfo = "vm.info" GET, when PRESENT | MIGRATING | WORKING, by (|r: &dyn Reads| r.vm_info()), else "The VM info is not available";
        /// Tell the devices' counters.
        VmCounters -> Counters = "vm.counters" GET, when BOOTED | WORKING, by (|r: &dyn Reads| r.vm_counters()), else "The VM info is not available";
        /// Tell how long calls fare: snapshots, restores, core dumps, migrations.
        VmJobs -> Jobs = "vm.jobs" GET, when ALWAYS, by (|r: &dyn Reads| r.vm_jobs()), else "The jobs are not available";
    }
    commands {
        /// Delete the VM and end the process.
        VmmShutdown(AnyBody) -> Stopped = "vmm.shutdown" PUT, when NONE | PRESENT | WORKING, else "The VMM could not shutdown";
        /// Describe a VM.
        VmCreate(Box<VmConfig>) -> () = "vm.create" PUT, when NONE, may [InvalidConfig, Duplicate], else "The VM could not be created";
        /// Forget the VM; shut it down first.
        VmDelete(NoBody) -> () = "vm.delete" PUT, when NONE | PRESENT | WORKING, else "The VM could not be deleted";
        /// Build the VM and run it.
        VmBoot(NoBody) -> () = "vm.boot" PUT, when CREATED, may [InvalidConfig, NotImplemented], else "The VM could not boot";
        /// Switch the VM off; its configuration stays.
        VmShutdown(NoBody) -> () = "vm.shutdown" PUT, when BOOTED | WORKING, else "The VM could not shutdown";
        /// Switch the VM off and boot it again.
        VmReboot(NoBody) -> () = "vm.reboot" PUT, when BOOTED | WORKING, may [InvalidConfig, NotImplemented], else "The VM could not reboot";
        /// Press the VM's power button.
        VmPowerButton(NoBody) -> () = "vm.power-button" PUT, when BOOTED | WORKING, else "Error triggering power button";
        /// Hold the VM's CPUs and devices.
        VmPause(NoBody) -> () = "vm.pause" PUT, when RUNNING, else "The VM could not be paused";
        /// Let a paused VM go on.
        VmResume(NoBody) -> () = "vm.resume" PUT, when PAUSED, else "The VM could not resume";
        /// Send a non-maskable interrupt to every vCPU.
        VmNmi(NoBody) -> () = "vm.nmi" PUT, when BOOTED | WORKING, else "Error triggering NMI";
        /// Add a VFIO device.
        VmAddDevice(With<DeviceConfig>) -> Option<PciDeviceInfo> = "vm.add-device" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The device could not be added to the VM";
        /// Add a vfio-user device.
        VmAddUserDevice(UserDeviceConfig) -> Option<PciDeviceInfo> = "vm.add-user-device" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The user device could not be added to the VM";
        /// Add a disk.
        VmAddDisk(DiskConfig) -> Option<PciDeviceInfo> = "vm.add-disk" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The disk could not be added to the VM";
        /// Add a shared directory.
        VmAddFs(FsConfig) -> Option<PciDeviceInfo> = "vm.add-fs" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The fs could not be added to the VM";
        /// Add a device served over vhost-user.
        VmAddGenericVhostUser(GenericVhostUserConfig) -> Option<PciDeviceInfo> = "vm.add-generic-vhost-user" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The generic vhost-user device could not be added to the VM";
        /// Add a network interface.
        VmAddNet(With<NetConfig>) -> Option<PciDeviceInfo> = "vm.add-net" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The network device could not be added to the VM";
        /// Add persistent memory.
        VmAddPmem(PmemConfig) -> Option<PciDeviceInfo> = "vm.add-pmem" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The pmem device could not be added to the VM";
        /// Add a vDPA device.
        VmAddVdpa(VdpaConfig) -> Option<PciDeviceInfo> = "vm.add-vdpa" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The vDPA device could not be added to the VM";
        /// Add a vsock device.
        VmAddVsock(VsockConfig) -> Option<PciDeviceInfo> = "vm.add-vsock" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Duplicate], else "The vsock device could not be added to the VM";
        /// Ask the guest to let go of a device.
        VmRemoveDevice(VmRemoveDevice) -> () = "vm.remove-device" PUT, when PRESENT, may [InvalidConfig, NoSuchDevice, Pending], else "The device could not be removed from the VM";
        /// Change the number of vCPUs, the RAM size or the balloon.
        VmResize(VmResize) -> () = "vm.resize" PUT, when PRESENT, may [NotImplemented, InvalidConfig, Pending], else "The VM could not be resized";
        /// Change a disk's size.
        VmResizeDisk(VmResizeDisk) -> () = "vm.resize-disk" PUT, when BOOTED, may [InvalidConfig, NoSuchDevice], else "The disk could not be resized";
        /// End a job: the guest goes on as if it had not been asked for.
        VmCancelJob(VmCancelJob) -> () = "vm.cancel-job" PUT, when ALWAYS, may [NoSuchJob], else "The job could not be cancelled";
        /// Write the VM to files, a running one while it runs.
        VmSnapshot(VmSnapshotConfig) -> () = "vm.snapshot" PUT, when BOOTED, may [InvalidConfig, Pending], else "The VM could not be snapshotted";
        /// Make a VM from a snapshot's files.
        VmRestore(With<RestoreConfig>) -> () = "vm.restore" PUT, when NONE, may [InvalidConfig, Duplicate], else "The VM could not be restored";
        /// Take a VM over from another process.
        VmReceiveMigration(With<VmReceiveMigrationData>) -> () = "vm.receive-migration" PUT, when NONE | CREATED, may [InvalidConfig, Duplicate], else "Error receiving migration";
        /// Hand the VM over to another process.
        VmSendMigration(VmSendMigrationData) -> () = "vm.send-migration" PUT, when BOOTED, may [InvalidConfig, Pending], else "Error dispatching the migration worker";
        /// Write the guest's memory and CPU state to an ELF core file.
        VmCoredump(VmCoredumpData) -> () = "vm.coredump" PUT, when BOOTED, may [InvalidConfig], else "The VM could not be coredumped";
        /// Change a memory zone's size.
        VmResizeZone(VmResizeZone) -> () = "vm.resize-zone" PUT, when PRESENT, may [InvalidConfig], else "The memory zone could not be resized";
    }
}

/// A body that nobody looks at (`vmm.shutdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyBody;

impl Body for AnyBody {
    const EXPECTED: bool = false;

    #[cfg(feature = "schema")]
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }

    fn parse(request: Request<'_>) -> Result<(Self, Vec<String>), ApiError> {
        request.want(0..=0)?;
        Ok((Self, Vec::new()))
    }
}
