//! Steering (`agent-ebpf/src/steer.rs`): which of a listener's sockets a bundle goes to.
//!
//! The program belongs to the sockets' group (SO_REUSEPORT), the table of sockets to the gate; both
//! need no capability once they are made, so a reload can steer a new listener. The kernel takes a
//! socket out of the table when it is closed.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use agent_common::layout::{SHARDS_MAX, shard_socket_index, steered_index};
use agent_common::steer::SteeredBy;
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::programs::SkReuseport;

use super::error::GateError;
use super::kernel::{counters, map_error, program, refused, sum, take_map};
use super::object;
use crate::shard::op::ListenerId;

/// A socket taken over from an earlier life stands in that life's table until the kernel has let go
/// of the program that used it, which it does in its own time (RCU): milliseconds.
const TAKE_OVER_MAX: Duration = Duration::from_secs(1);
const TAKE_OVER_RETRY: Duration = Duration::from_millis(1);

pub struct Steering {
    sockets: ReusePortSockArray<MapData>,
    shards: Array<MapData, u32>,
    steered: PerCpuArray<MapData, u64>,
}

impl Steering {
    /// Loads the program and takes its maps.
    pub fn load(ebpf: &mut Ebpf) -> Result<Self, GateError> {
        let steer: &mut SkReuseport = program(ebpf, object::STEER)?;
        steer
            .load()
            .map_err(|error| refused(object::STEER, error))?;
        let sockets = take_map(ebpf, object::map::SHARD_SOCKETS)?;
        let shards = take_map(ebpf, object::map::STEERED_SHARDS)?;
        Ok(Self {
            sockets: ReusePortSockArray::try_from(sockets)
                .map_err(|source| map_error(object::map::SHARD_SOCKETS, source))?,
            shards: Array::try_from(shards)
                .map_err(|source| map_error(object::map::STEERED_SHARDS, source))?,
            steered: counters(ebpf, object::map::STEERED)?,
        })
    }

    /// Steers among the sockets of a listener, which are bound; the index is the shard.
    ///
    /// The program first, which steers nothing yet: so that of an earlier life lets go of its table.
    pub fn steer(
        &mut self,
        ebpf: &mut Ebpf,
        listener: ListenerId,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), GateError> {
        assert!(
            sockets.len() <= SHARDS_MAX as usize,
            "{} shards",
            sockets.len()
        );
        let row = u32::from(listener.0);
        let set_shards = |this: &mut Self, shards| {
            let set = this.shards.set(row, shards, 0);
            set.map_err(|source| map_error(object::map::STEERED_SHARDS, source))
        };
        // Nobody reads a half-filled row: until it is whole the kernel's own hash spreads.
        set_shards(self, 0)?;
        let steer: &mut SkReuseport = program(ebpf, object::STEER)?;
        steer
            .attach(sockets[0])
            .map_err(GateError::AttachSteering)?;
        for (shard, socket) in (0..).zip(sockets) {
            self.place(shard_socket_index(row, shard), *socket)?;
        }
        set_shards(self, sockets.len() as u32)
    }

    fn place(&mut self, index: u32, socket: BorrowedFd<'_>) -> Result<(), GateError> {
        let deadline = Instant::now() + TAKE_OVER_MAX;
        loop {
            match self.sockets.set(index, &socket, 0) {
                Ok(()) => return Ok(()),
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    std::thread::sleep(TAKE_OVER_RETRY);
                }
                Err(error) => return Err(map_error(object::map::SHARD_SOCKETS, error)),
            }
        }
    }

    /// Bundles by what decided where they went, in the order of `SteeredBy::ALL`.
    pub fn counts(&self, listener: ListenerId) -> [u64; SteeredBy::COUNT] {
        let row = u32::from(listener.0);
        SteeredBy::ALL.map(|by| sum(&self.steered, steered_index(row, by)))
    }
}

/// The socket stands in a table already.
fn is_busy(error: &MapError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.raw_os_error() == Some(libc::EBUSY))
}
