//! The bytes of a file as a slice, without reading them first. FFI: the system's maps of files.
//!
//! What is mapped must not change while it is in use. Nothing can enforce that: a file that is
//! written to in place shows other pixels, and one that shrinks ends the process with SIGBUS at the
//! next access to what is gone. Packing therefore replaces files by renaming, never in place, and
//! numbers that are used as indices are copied out and checked before use. What the bytes mean is
//! not known here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file for reading.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and every byte is a valid `u8`. That nobody writes to the file or
    // shortens it is the user's promise, stated above and in the README.
    unsafe { Mmap::map(file) }
}
