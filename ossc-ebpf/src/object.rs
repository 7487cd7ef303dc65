//! What each of the two eBPF objects needs beside its programs; both have this file as a module.

/// The verifier proves that no program panics; the language still wants a handler to link.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers, such as bpf_send_signal, are only for programs under a licence the kernel calls compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
