//! Where the running kernel keeps the structure members the programs follow, read from its BTF.
//!
//! Pure apart from reading one file. A kernel without BTF, or one that renamed a member, gives a message
//! that names it; `attach` then leaves out the programs that need them.

use btf_rs::{Backend, Btf, Type};
use ossc_common::{Offsets, Registers};

/// The running kernel's types (CONFIG_DEBUG_INFO_BTF).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Bits of a byte: BTF counts member offsets in bits.
const BITS: u32 = 8;

/// `__USER32_CS` (arch/x86/include/asm/segment.h).
#[cfg(target_arch = "x86_64")]
const USER32_CS: u32 = 0x23;
/// `PSR_MODE32_BIT` (arch/arm64/include/uapi/asm/ptrace.h).
#[cfg(target_arch = "aarch64")]
const MODE32: u32 = 0x10;

fn types() -> Result<Btf, String> {
    // In place where the kernel lets it be mapped (Linux 6.16): 6 ms and 1 MB instead of 110 ms and 40 MB.
    Btf::from_file_with_backend(VMLINUX, Backend::Mmap)
        .or_else(|_| Btf::from_file(VMLINUX))
        .map_err(|error| format!("cannot read {VMLINUX}: {error}"))
}

/// The offsets for the running kernel, and where it has the arguments of a system call.
pub(super) fn with_registers() -> Result<(Offsets, Registers), String> {
    let btf = types()?;
    Ok((offsets(&btf)?, registers(&btf)?))
}

/// `syscall_get_arguments` of the processor.
fn registers(btf: &Btf) -> Result<Registers, String> {
    let at = |member: &str| offset(btf, "pt_regs", member);
    #[cfg(target_arch = "x86_64")]
    return Ok(Registers {
        arguments: [at("di")?, at("si")?, at("dx")?, at("r10")?, at("r8")?, at("r9")?],
        narrow_at: at("cs")?,
        narrow_mask: 0xffff,
        narrow_value: USER32_CS,
    });
    #[cfg(target_arch = "aarch64")]
    return {
        let first = at("regs")?;
        let argument = |index: u32| first + index * size_of::<u64>() as u32;
        Ok(Registers {
            arguments: [0, 1, 2, 3, 4, 5].map(argument),
            narrow_at: at("pstate")?,
            narrow_mask: MODE32,
            narrow_value: MODE32,
        })
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return at("nothing");
}

/// The offsets for the running kernel.
pub(super) fn read() -> Result<Offsets, String> {
    offsets(&types()?)
}

fn offsets(btf: &Btf) -> Result<Offsets, String> {
    let at = |structure: &str, member: &str| offset(btf, structure, member);
    let folios = folios(&at).unwrap_or_default();
    Ok(Offsets {
        task_pid: at("task_struct", "pid")?,
        task_tgid: at("task_struct", "tgid")?,
        task_signal: at("task_struct", "signal")?,
        task_files: at("task_struct", "files")?,
        signal_live: at("signal_struct", "live")?,
        files_fdt: at("files_struct", "fdt")?,
        fdtable_max_fds: at("fdtable", "max_fds")?,
        fdtable_fd: at("fdtable", "fd")?,
        file_inode: at("file", "f_inode")?,
        file_position: at("file", "f_pos")?,
        mapping_host: at("address_space", "host")?,
        inode_ino: at("inode", "i_ino")?,
        inode_sb: at("inode", "i_sb")?,
        super_block_dev: at("super_block", "s_dev")?,
        // Without these something is not seen, which `attach` and docs/trace.md tell, but the rest is.
        inode_marks: at("inode", "i_fsnotify_mask").unwrap_or(0),
        request_position: at("kiocb", "ki_pos").unwrap_or(0),
        buffers_count: at("iov_iter", "count").unwrap_or(0),
        buffers_are_source: at("iov_iter", "data_source").unwrap_or(0),
        ..folios
    })
}

/// What leads to the folios of a file, all of it or nothing.
fn folios(at: &impl Fn(&str, &str) -> Result<u32, String>) -> Result<Offsets, String> {
    Ok(Offsets {
        cache_head: at("address_space", "i_pages")? + at("xarray", "xa_head")?,
        node_shift: at("xa_node", "shift")?,
        node_slots: at("xa_node", "slots")?,
        folio_index: at("folio", "index")?,
        folio_order: at("folio", "_flags_1")?,
        folio_mapped: at("folio", "_large_mapcount")?,
        ..Offsets::default()
    })
}

/// Bytes from the start of `structure` to `member`, which may lie in an anonymous struct or union.
fn offset(btf: &Btf, structure: &str, member: &str) -> Result<u32, String> {
    let types = btf.resolve_types_by_name(structure).unwrap_or_default();
    types
        .iter()
        .find_map(|candidate| bit_offset(btf, candidate, member))
        .map(|bits| bits / BITS)
        .ok_or_else(|| format!("this kernel has no {structure}.{member}"))
}

fn bit_offset(btf: &Btf, within: &Type, member: &str) -> Option<u32> {
    let (Type::Struct(structure) | Type::Union(structure)) = within else { return None };
    structure.members.iter().find_map(|candidate| {
        let name = btf.resolve_name(candidate).unwrap_or_default();
        let inner = if name.is_empty() {
            bit_offset(btf, &btf.resolve_chained_type(candidate).ok()?, member)?
        } else if name == member {
            0
        } else {
            return None;
        };
        candidate.bit_offset().checked_add(inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_plain_and_nested_members_and_names_what_is_gone() {
        let btf = Btf::from_file(VMLINUX).unwrap();
        // The first member, which include/linux/sched.h fixes, and one in an anonymous union.
        assert_eq!(offset(&btf, "list_head", "next"), Ok(0));
        assert_eq!(offset(&btf, "list_head", "prev"), Ok(8));
        assert!(offset(&btf, "page", "mapping").unwrap() > 0);
        assert_eq!(
            offset(&btf, "task_struct", "nonsense"),
            Err("this kernel has no task_struct.nonsense".into())
        );
    }

    #[test]
    fn the_running_kernel_has_every_member() {
        let offsets = read().unwrap();
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
        assert!(offsets.inode_marks > 0 && offsets.request_position > 0 && offsets.buffers_are_source > 0);
        assert!(offsets.cache_head > 0 && offsets.folio_mapped > 0);
    }
}
