//! What user space tells the programs before they are loaded. The programs see it as constants, so the
//! verifier drops the branches that the settings rule out.

/// The settings of one load of the programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Process id of the agent: what it does itself is never recorded.
    pub own_tgid: u32,
    /// 1 when every process is a target, 0 when only those of the target map and cgroups are.
    pub everybody: u32,
    /// How many slots of the cgroup map are filled.
    pub cgroups: u32,
    /// log2 of the bytes of a page.
    pub page_shift: u32,
    /// 1 when calls that wait for a fanotify permission mark are to be timed.
    pub stalls: u32,
    /// Where the running kernel keeps the members the programs follow.
    pub offsets: Offsets,
}

/// Byte offsets of struct members in the running kernel, from its BTF. Rust programs have no CO-RE
/// relocations, and an offset compiled in would be right for one kernel only.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// `task_struct.pid`: the thread's id.
    pub task_pid: u32,
    /// `task_struct.tgid`: the process's id.
    pub task_tgid: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `signal_struct.live`: threads of the process that have not exited.
    pub signal_live: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `fdtable.max_fds`.
    pub fdtable_max_fds: u32,
    /// `fdtable.fd`: the array of open files.
    pub fdtable_fd: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `file.f_pos`.
    pub file_position: u32,
    /// `address_space.host`: the inode whose page cache it is.
    pub mapping_host: u32,
    /// `inode.i_ino`.
    pub inode_ino: u32,
    /// `inode.i_sb`.
    pub inode_sb: u32,
    /// `super_block.s_dev`.
    pub super_block_dev: u32,
    /// `inode.i_fsnotify_mask`: what the marks on the file ask for; 0 = not known.
    pub inode_marks: u32,
    /// `kiocb.ki_filp` is the first member of its structure since it exists; this is `kiocb.ki_pos`. This and the
    /// two below are 0 where there is no tracepoint that needs them.
    pub request_position: u32,
    /// `iov_iter.count`.
    pub buffers_count: u32,
    /// `iov_iter.data_source`: whether the buffers are written to the file.
    pub buffers_are_source: u32,
    /// `xarray.xa_head` within the `address_space`: the page cache. This and those below are 0 where the kernel does
    /// not count how often a folio is mapped.
    pub cache_head: u32,
    /// `xa_node.shift`.
    pub node_shift: u32,
    /// `xa_node.slots`.
    pub node_slots: u32,
    /// `folio.index`: which page of the file is its first.
    pub folio_index: u32,
    /// `folio._flags_1`, whose lowest byte is log2 of the pages of a large folio.
    pub folio_order: u32,
    /// `folio._large_mapcount`: how often pages of a large folio are mapped, less 1.
    pub folio_mapped: u32,
}

impl Offsets {
    /// Before the loader has found them.
    pub const UNKNOWN: Self = Self {
        task_pid: 0,
        task_tgid: 0,
        task_signal: 0,
        task_files: 0,
        signal_live: 0,
        files_fdt: 0,
        fdtable_max_fds: 0,
        fdtable_fd: 0,
        file_inode: 0,
        file_position: 0,
        mapping_host: 0,
        inode_ino: 0,
        inode_sb: 0,
        super_block_dev: 0,
        inode_marks: 0,
        request_position: 0,
        buffers_count: 0,
        buffers_are_source: 0,
        cache_head: 0,
        node_shift: 0,
        node_slots: 0,
        folio_index: 0,
        folio_order: 0,
        folio_mapped: 0,
    };
}

const _: () = assert!(size_of::<Offsets>() == 24 * 4);
const _: () = assert!(size_of::<Settings>() == 5 * 4 + size_of::<Offsets>());

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for this marker on what becomes a global of the programs")]
mod pod {
    // SAFETY: repr(C), only integers, no padding (asserted above), Copy and 'static.
    unsafe impl aya::Pod for super::Settings {}
}
