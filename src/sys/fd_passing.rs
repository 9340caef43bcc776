//! Sending descriptors to a helper, and taking them there (SCM_RIGHTS, unix(7)).
#![allow(unsafe_code)]

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// The most descriptors one message carries.
const MAX_FDS: usize = 4;

/// Sends one message with descriptors.
///
/// # Errors
/// The kernel's; an incomplete send.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Takes one message of at most `max` bytes and its descriptors.
///
/// # Errors
/// The kernel's; a message that was cut.
pub fn receive(socket: impl AsFd, max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == max || got.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(got.bytes);
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    Ok((bytes, fds))
}

/// A descriptor that whoever started this process left open for it under a number.
///
/// # Errors
/// EBADF where it is not open.
pub fn inherited(number: RawFd) -> io::Result<BorrowedFd<'static>> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only borrowed, and checked right here; nothing in this process closes it.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        send(&ours, b"hello", &[file.as_fd(), ours.as_fd()]).unwrap();
        let (bytes, mut fds) = receive(&theirs, 100).unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (b"hello".as_slice(), 2));
        let mut text = String::new();
        File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        send(&ours, &[0; 100], &[]).unwrap();
        assert!(receive(&theirs, 100).is_err());
    }

    #[test]
    fn a_number_that_is_not_open_is_no_descriptor() {
        assert!(inherited(-1).is_err() && inherited(1 << 20).is_err() && inherited(0).is_ok());
    }
}
