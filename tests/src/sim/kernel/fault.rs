//! What can go wrong: misfortunes by chance, exact mishaps, deliberate lies, and the sizes and
//! times that make them likely.

/// Misfortunes, in a thousand of their occasions, and sizes that make them likely.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub write_error: u32,
    pub write_short: u32,
    pub sync_error: u32,
    pub open_error: u32,
    pub allocate_error: u32,
    pub folder_error: u32,
    /// Journal ops that take 10 to 300 ms.
    pub disk_late: u32,
    pub accept_error: u32,
    /// A multishot op that ends after a good completion.
    pub multishot_ends: u32,
    pub send_partial: u32,
    pub send_error: u32,
    /// A wake-up without a completion, or with one that says only "woken".
    pub wake_for_nothing: u32,
    /// No send buffer although one is free.
    pub send_buffer_refused: u32,
    /// Calls of a sink that fail.
    pub file_write_error: u32,
    pub file_sync_error: u32,
    /// Creations, renames, removals and folder syncs.
    pub file_name_error: u32,
    /// From when to when the disk has no room for new segments and longer files.
    pub full_ns: Option<(u64, u64)>,
    /// From when to when nothing that is asked of the disk comes to an end.
    pub stall_ns: Option<(u64, u64)>,
    /// None of these, and nothing that producers do, happens later than this after a life's begin.
    pub until_ns: u64,
}

/// How often each kind of trouble has really happened: a run in which none has proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    pub kills: u64,
    pub power_losses: u64,
    /// Writes that a power loss has kept in part, not at all, or as a whole.
    pub torn_writes: u64,
    pub lost_writes: u64,
    pub kept_writes: u64,
    /// Names that a power loss has taken back.
    pub lost_names: u64,
    pub write_errors: u64,
    pub short_writes: u64,
    pub sync_errors: u64,
    pub open_errors: u64,
    pub folder_errors: u64,
    pub full_disks: u64,
    pub stalls: u64,
    pub sink_errors: u64,
    pub resets: u64,
    pub pool_exhausted: u64,
    pub torn_tails_cut: u64,
    pub segments_removed: u64,
    pub files_sealed: u64,
    pub backpressure: u64,
    /// Of these, by the limit of a tenant.
    pub limited: u64,
    /// Good datagrams or bad ones, left out by their priority.
    pub shed: u64,
    /// Frames that were put on a wire more than once.
    pub resent: u64,
    pub duplicates: u64,
    pub handed_over: u64,
    /// Connections of the real client that could not be opened, and that were cut.
    pub connects_refused: u64,
    pub client_cuts: u64,
    /// Records that the real client has dropped for want of room.
    pub client_drops: u64,
    /// Restarts with another number of shards.
    pub reshards: u64,
}

impl Struck {
    fn each(&mut self) -> [(&'static str, &mut u64); 29] {
        [
            ("kills", &mut self.kills),
            ("power losses", &mut self.power_losses),
            ("torn writes", &mut self.torn_writes),
            ("lost writes", &mut self.lost_writes),
            ("kept writes", &mut self.kept_writes),
            ("lost names", &mut self.lost_names),
            ("write errors", &mut self.write_errors),
            ("short writes", &mut self.short_writes),
            ("sync errors", &mut self.sync_errors),
            ("open errors", &mut self.open_errors),
            ("folder sync errors", &mut self.folder_errors),
            ("full disk", &mut self.full_disks),
            ("stalled disk", &mut self.stalls),
            ("sink errors", &mut self.sink_errors),
            ("connections cut", &mut self.resets),
            ("receive pool exhausted", &mut self.pool_exhausted),
            ("torn tails cut", &mut self.torn_tails_cut),
            ("segments removed", &mut self.segments_removed),
            ("files sealed", &mut self.files_sealed),
            ("told to try later", &mut self.backpressure),
            ("told so for a tenant's limit", &mut self.limited),
            ("datagrams shed", &mut self.shed),
            ("frames sent again", &mut self.resent),
            ("answered duplicate", &mut self.duplicates),
            ("connections moved", &mut self.handed_over),
            ("client: refused", &mut self.connects_refused),
            ("client: cut", &mut self.client_cuts),
            ("client: dropped records", &mut self.client_drops),
            ("changed shard counts", &mut self.reshards),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        let mut other = *other;
        for ((_, sum), (_, count)) in self.each().into_iter().zip(other.each()) {
            *sum += *count;
        }
    }

    /// Each kind and how often it happened.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut copy = *self;
        let counts = copy.each().map(|(what, count)| (what, *count));
        counts.to_vec()
    }
}

/// One exact misfortune, for scenarios that leave nothing to chance. Each is used up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The nth write of a block (from 0; header pages do not count) fails.
    WriteFails {
        nth: u64,
        errno: i32,
    },
    WriteShort {
        nth: u64,
        len: usize,
    },
    /// The nth sync fails.
    SyncFails {
        nth: u64,
        errno: i32,
    },
    AllocateFails {
        nth: u64,
        errno: i32,
    },
    /// The nth sync of the folder of cursors fails.
    CursorFolderSyncFails {
        nth: u64,
    },
}

/// What a kernel (or, seen from the disk, a broken agent) does wrong on purpose, to prove that the
/// checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs that say they are done and did nothing: an agent that acknowledges before the sync.
    SyncDoesNothing,
    /// Syncs that cover nothing that was written since the last: one that syncs too early.
    SyncTooEarly,
    /// An error of a sync that nobody looks at.
    SyncErrorUnseen,
    /// Short writes that nobody looks at.
    ShortWriteUnseen,
    /// A folder that is never synced.
    FolderSyncDoesNothing,
    /// An acknowledgement of the wrong frame.
    AckOfAnother,
    /// The same acknowledgement twice.
    AckTwice,
    /// A block whose bytes change while it is written.
    BlockChanges,
    /// A buffer that is never given back.
    LeaseKept,
    /// A frame's bytes altered between socket and journal, checksums mended.
    FrameForged,
    /// A frame that is received and dropped in silence.
    FrameDropped,
    /// Syncs of output files that do nothing: a sink that commits its cursor before its output.
    CursorBeforeOutput,
    /// A sequence below the window that is called a duplicate.
    TooOldIsDuplicate,
    /// A start that remembers no producer.
    DedupForgotten,
    /// A recovery that cuts the journal one good block short.
    GoodEntryCut,
}

/// Sizes of the pools.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub tcp_buffers: usize,
    pub tcp_buffer_len: usize,
    pub udp_buffers: usize,
    pub udp_buffer_len: usize,
    pub send_buffers: usize,
    /// Bytes of answers that a socket takes before its peer reads.
    pub socket_send_len: usize,
    /// Packets that a UDP socket queues.
    pub udp_queue_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            tcp_buffers: 8,
            tcp_buffer_len: 4096,
            udp_buffers: 8,
            udp_buffer_len: 20 << 10,
            send_buffers: 8,
            socket_send_len: 4096,
            udp_queue_max: 64,
        }
    }
}

/// How long things take when nothing is wrong, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Pace {
    pub network: (u64, u64),
    pub disk: (u64, u64),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            network: (2_000, 200_000),
            disk: (30_000, 900_000),
        }
    }
}
