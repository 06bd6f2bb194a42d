//! rtnetlink: conversations with it, and what of links and namespaces' numbers is needed here.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// Of a list that changed while it was told: something may be missing.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Of `converse`: the kernel is to answer also where there is nothing but success to tell.
pub const ACK: u16 = 4;
/// Of `converse`: all objects of a kind.
pub const DUMP: u16 = 0x300;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const IFF_UP: u32 = 1;
const ARPHRD_ETHER: u16 = 1;
/// Of one read: the kernel fills at most half of it at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// Of a list that changes while it is told.
const DUMP_TRIES: u32 = 5;

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) up: bool,
    pub(crate) ethernet: bool,
    /// Of a veth: the other end's index in its namespace, and that namespace's number (none: the same one).
    pub(crate) peer: Option<u32>,
    pub(crate) peer_netns_id: Option<i32>,
}

/// All interfaces of the calling thread's namespace.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    let messages = converse(RTM_GETLINK, DUMP, &link_request(0))?;
    Ok(messages.iter().filter_map(|message| parse_link(message)).collect())
}

/// One of them; `None` where there is none of this index.
pub(crate) fn link(ifindex: u32) -> io::Result<Option<Link>> {
    match converse(RTM_GETLINK, 0, &link_request(ifindex)) {
        Ok(messages) => Ok(messages.first().and_then(|message| parse_link(message))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the calling thread's namespace numbers `namespace`; it is given a number where it has none.
pub(crate) fn netns_id(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    if let Some(id) = known_netns_id(namespace)? {
        return Ok(id);
    }
    let mut body = namespace_request(namespace);
    attribute(&mut body, NETNSA_NSID, &(-1_i32).to_ne_bytes());
    match converse(RTM_NEWNSID, ACK, &body) {
        Ok(_) => {}
        // Somebody else was faster.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    known_netns_id(namespace)?.ok_or_else(|| io::Error::other("the namespace was given no number"))
}

fn known_netns_id(namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let messages = converse(RTM_GETNSID, 0, &namespace_request(namespace))?;
    let reply = messages.first().ok_or(io::ErrorKind::UnexpectedEof)?;
    let id = attributes(reply.get(4..).unwrap_or_default())
        .find(|(kind, _)| *kind == NETNSA_NSID)
        .and_then(|(_, value)| Some(i32::from_ne_bytes(value.try_into().ok()?)));
    Ok(id.filter(|id| *id >= 0))
}

fn link_request(ifindex: u32) -> Vec<u8> {
    let mut body = vec![0_u8; IFINFO_BYTES];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    attribute(&mut body, IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    body
}

fn namespace_request(namespace: BorrowedFd<'_>) -> Vec<u8> {
    let mut body = vec![0_u8; 4];
    attribute(&mut body, NETNSA_FD, &(namespace.as_raw_fd() as u32).to_ne_bytes());
    body
}

/// Appends an attribute, padded.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((value.len() + 4) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes of a message: kinds and values.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & ATTRIBUTE_TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn parse_link(message: &[u8]) -> Option<Link> {
    let number = |value: &[u8]| Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?));
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let mut link = Link {
        ifindex: number(message.get(4..)?)?,
        name: String::new(),
        kind: String::new(),
        up: number(message.get(8..)?)? & IFF_UP != 0,
        ethernet: u16::from_ne_bytes(message.get(2..4)?.try_into().ok()?) == ARPHRD_ETHER,
        peer: None,
        peer_netns_id: None,
    };
    for (kind, value) in attributes(message.get(IFINFO_BYTES..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINK => link.peer = number(value),
            IFLA_LINK_NETNSID => link.peer_netns_id = number(value).map(|id| id as i32),
            IFLA_LINKINFO => {
                let info = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = info.map(|(_, kind)| text(kind)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Asks the kernel, in the calling thread's network namespace, and collects the bodies of its answers. A list that
/// changes while it is told is asked for again; `Interrupted` where it does so each time.
pub fn converse(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    // Nothing else is safe to ask for twice.
    let tries = if flags & DUMP == DUMP { DUMP_TRIES } else { 1 };
    uninterrupted(tries, || ask(kind, flags, body))
}

fn uninterrupted<T>(tries: u32, mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..tries {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
    ask()
}

fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let connection =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    request.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0_u8; 8]);
    request.extend(body);
    send(connection.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        let length = recv(connection.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        let read = buffer.get(..length).ok_or_else(|| io::Error::other("an answer was too long"))?;
        if collect(read, flags & DUMP == DUMP, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the messages of one read; `true` when there are no more to come.
fn collect(mut rest: &[u8], dump: bool, found: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while rest.len() >= HEADER_BYTES {
        let length = u32::from_ne_bytes(rest[..4].try_into().map_err(|_| cut())?) as usize;
        let kind = u16::from_ne_bytes(rest[4..6].try_into().map_err(|_| cut())?);
        let flags = u16::from_ne_bytes(rest[6..8].try_into().map_err(|_| cut())?);
        let body = rest.get(HEADER_BYTES..length).ok_or_else(cut)?;
        if dump && flags & NLM_F_DUMP_INTR != 0 {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "a list changed while it was read"));
        }
        match kind {
            // The end of a list has a code as well: of a list that broke off.
            NLMSG_DONE | NLMSG_ERROR => return succeeded(body).map(|()| true),
            _ => found.push(body.to_vec()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(!dump)
}

fn cut() -> io::Error {
    io::Error::other("an answer was cut short")
}

/// The code at the beginning of a closing message: negative for an error.
fn succeeded(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).ok_or_else(cut)?;
    match i32::from_ne_bytes(code) {
        code if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0_u8; 8]);
        bytes.extend(body);
        bytes
    }

    fn closing(kind: u16, code: i32) -> Vec<u8> {
        message(kind, 0, &code.to_ne_bytes())
    }

    fn collected(messages: &[Vec<u8>], dump: bool) -> io::Result<(bool, usize)> {
        let mut found = Vec::new();
        collect(&messages.concat(), dump, &mut found).map(|over| (over, found.len()))
    }

    #[test]
    fn a_list_is_complete_with_its_end_and_not_before() {
        let one = message(RTM_GETLINK, 2, &[0; 4]);
        assert_eq!(collected(&[one.clone(), one.clone()], true).unwrap(), (false, 2));
        assert_eq!(collected(&[one.clone(), closing(NLMSG_DONE, 0)], true).unwrap(), (true, 1));
        assert_eq!(collected(&[one], false).unwrap(), (true, 1));
        assert_eq!(collected(&[closing(NLMSG_ERROR, 0)], false).unwrap(), (true, 0));
    }

    #[test]
    fn a_list_that_broke_off_is_an_error() {
        let one = message(RTM_GETLINK, 2, &[0; 4]);
        let broken = collected(&[one.clone(), closing(NLMSG_DONE, -libc::ENOMEM)], true).unwrap_err();
        assert_eq!(broken.raw_os_error(), Some(libc::ENOMEM));
        let refused = collected(&[closing(NLMSG_ERROR, -libc::EPERM)], false).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(collected(&[one, message(NLMSG_DONE, 0, &[])], true).is_err(), "no code");
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_an_interruption_wherever_that_is_told() {
        let one = message(RTM_GETLINK, 2, &[0; 4]);
        let changed = message(RTM_GETLINK, 2 | NLM_F_DUMP_INTR, &[0; 4]);
        let end = message(NLMSG_DONE, NLM_F_DUMP_INTR, &0_i32.to_ne_bytes());
        for messages in [[changed.clone(), closing(NLMSG_DONE, 0)], [one, end]] {
            let error = collected(&messages, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        }
    }

    #[test]
    fn what_is_interrupted_is_asked_for_again_a_few_times_and_nothing_else_is() {
        let after = |interruptions: u32, tries: u32| {
            let mut asked = 0;
            let answer = uninterrupted(tries, || {
                asked += 1;
                if asked <= interruptions { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            });
            (answer.is_ok(), asked)
        };
        assert_eq!(after(2, DUMP_TRIES), (true, 3));
        assert_eq!(after(100, DUMP_TRIES), (false, DUMP_TRIES));
        assert_eq!(after(1, 1), (false, 1));
        let mut asked = 0;
        let refused: io::Result<()> = uninterrupted(DUMP_TRIES, || {
            asked += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert!(refused.is_err());
        assert_eq!(asked, 1);
    }
}
