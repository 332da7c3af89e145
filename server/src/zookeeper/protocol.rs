//! The records of ZooKeeper's wire protocol: requests are decoded, replies and events encoded.
//!
//! Field orders are those of `zookeeper.jute`, numbers those of `ZooDefs.OpCode`,
//! `KeeperException.Code`, `CreateMode` and `Watcher`. Nothing here has a state or knows the tree.

use bytes::Bytes;

use super::acl::{Acl, Id};
use super::jute::{JuteError, Reader, Writer};
use super::transaction::{Lifetime, Operation};
use super::watch::{Kind, Mode};

/// Operation numbers.
pub mod op {
    #![expect(
        missing_docs,
        reason = "the names are ZooKeeper's and say all there is to say"
    )]
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CHECK_WATCHES: i32 = 17;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const SASL: i32 = 102;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    pub const SET_WATCHES2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;
    pub const ERROR: i32 = -1;
}

/// The xid of events.
pub const NOTIFICATION_XID: i32 = -1;
/// The xid of a ping's reply.
pub const PING_XID: i32 = -2;
/// The zxid of events that no transaction caused.
pub const NO_ZXID: i64 = -1;
/// The state that events carry: SyncConnected.
const STATE_SYNC_CONNECTED: i32 = 3;

/// ZooKeeper's error codes, as far as this server gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(i32)]
pub enum ErrorCode {
    /// An operation of a transaction was not tried, as one before it failed.
    #[error("RUNTIMEINCONSISTENCY")]
    RuntimeInconsistency = -2,
    /// The request is malformed.
    #[error("MARSHALLINGERROR")]
    Marshalling = -5,
    /// The operation is unknown or not offered.
    #[error("UNIMPLEMENTED")]
    Unimplemented = -6,
    /// The path or a flag is invalid.
    #[error("BADARGUMENTS")]
    BadArguments = -8,
    /// No such node.
    #[error("NONODE")]
    NoNode = -101,
    /// The access control list forbids it.
    #[error("NOAUTH")]
    NoAuth = -102,
    /// The node has another version.
    #[error("BADVERSION")]
    BadVersion = -103,
    /// The parent is an ephemeral.
    #[error("NOCHILDRENFOREPHEMERALS")]
    NoChildrenForEphemerals = -108,
    /// The node is there already.
    #[error("NODEEXISTS")]
    NodeExists = -110,
    /// The node has children.
    #[error("NOTEMPTY")]
    NotEmpty = -111,
    /// The access control list is invalid.
    #[error("INVALIDACL")]
    InvalidAcl = -114,
    /// The authentication was not accepted.
    #[error("AUTHFAILED")]
    AuthFailed = -115,
    /// There is no such watch.
    #[error("NOWATCHER")]
    NoWatcher = -121,
    /// The members of the ensemble cannot be changed.
    #[error("RECONFIGDISABLED")]
    ReconfigDisabled = -123,
    /// The tree has no room for more.
    #[error("QUOTAEXCEEDED")]
    QuotaExceeded = -125,
    /// The client has or wants too much; it should back off.
    #[error("THROTTLEDOP")]
    ThrottledOp = -127,
}

impl From<JuteError> for ErrorCode {
    fn from(_: JuteError) -> Self {
        Self::Marshalling
    }
}

/// What a client learns about a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are ZooKeeper's; tree::NodeStat explains them"
)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

impl Stat {
    /// Appends the record.
    pub fn write(&self, writer: &mut Writer) {
        writer.i64(self.czxid);
        writer.i64(self.mzxid);
        writer.i64(self.ctime);
        writer.i64(self.mtime);
        writer.i32(self.version);
        writer.i32(self.cversion);
        writer.i32(self.aversion);
        writer.i64(self.ephemeral_owner);
        writer.i32(self.data_length);
        writer.i32(self.num_children);
        writer.i64(self.pzxid);
    }
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// Last transaction the client has seen.
    pub last_zxid_seen: i64,
    /// The session timeout it wants, in ms.
    pub timeout_ms: i32,
    /// The session it had, or 0.
    pub session: i64,
    /// The password of that session.
    pub password: &'a [u8],
    /// Whether the client knows of read-only servers; clients before 3.4 do not send the field.
    pub has_read_only: bool,
}

impl<'a> ConnectRequest<'a> {
    /// Decodes the record.
    pub fn decode(record: &'a [u8]) -> Result<Self, JuteError> {
        let mut reader = Reader::new(record);
        reader.i32()?;
        Ok(Self {
            last_zxid_seen: reader.i64()?,
            timeout_ms: reader.i32()?,
            session: reader.i64()?,
            password: reader.buffer()?.unwrap_or_default(),
            has_read_only: reader.bool().is_ok(),
        })
    }
}

/// The answer to a [`ConnectRequest`].
#[must_use]
pub fn connect_response(
    timeout_ms: u32,
    session: i64,
    password: &[u8; 16],
    has_read_only: bool,
) -> Bytes {
    let mut writer = Writer::packet();
    writer.i32(0);
    writer.i32(i32::try_from(timeout_ms).unwrap_or(i32::MAX));
    writer.i64(session);
    writer.buffer(Some(password));
    if has_read_only {
        writer.bool(false);
    }
    writer.into_packet().into()
}

/// A read, alone or in a multiRead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// `getData`: path, whether to watch.
    Data(&'a str, bool),
    /// `getChildren`: path, whether to watch.
    Children(&'a str, bool),
}

/// The paths of `setWatches` and `setWatches2`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchLists<'a> {
    /// Last transaction the client has seen.
    pub relative_zxid: i64,
    /// Data watches.
    pub data: Vec<&'a str>,
    /// Watches for nodes that were not there.
    pub exist: Vec<&'a str>,
    /// Watches for children.
    pub child: Vec<&'a str>,
    /// Persistent watches.
    pub persistent: Vec<&'a str>,
    /// Persistent recursive watches.
    pub recursive: Vec<&'a str>,
}

/// A decoded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A change, and the operation number that tells which reply it gets.
    Write(i32, Operation),
    /// A transaction, with the operation numbers.
    Multi(Vec<i32>, Vec<Operation>),
    /// Several reads.
    MultiRead(Vec<Read<'a>>),
    /// One read.
    Read(Read<'a>),
    /// `getChildren2`: path, whether to watch.
    Children2(&'a str, bool),
    /// `exists`: path, whether to watch.
    Exists(&'a str, bool),
    /// `getACL`.
    GetAcl(&'a str),
    /// `sync`.
    Sync(&'a str),
    /// `setWatches` and `setWatches2`.
    SetWatches(WatchLists<'a>),
    /// `addWatch`.
    AddWatch(&'a str, Mode),
    /// `checkWatches`.
    CheckWatches(&'a str, Kind),
    /// `removeWatches`.
    RemoveWatches(&'a str, Kind),
    /// `getEphemerals`, with the front of the paths.
    GetEphemerals(&'a str),
    /// `getAllChildrenNumber`.
    AllChildrenNumber(&'a str),
    /// `whoAmI`.
    WhoAmI,
    /// `auth`: scheme, credentials.
    Auth(&'a str, &'a [u8]),
    /// `ping`.
    Ping,
    /// `closeSession`.
    CloseSession,
    /// An operation number that no server knows.
    Unknown,
}

impl<'a> Request<'a> {
    /// Decodes what follows a request's header.
    pub fn decode(number: i32, record: &'a [u8]) -> Result<Self, ErrorCode> {
        let reader = &mut Reader::new(record);
        Ok(match number {
            op::PING => Self::Ping,
            op::CLOSE_SESSION => Self::CloseSession,
            op::EXISTS => Self::Exists(reader.text()?, reader.bool()?),
            op::GET_DATA | op::GET_CHILDREN => Self::Read(read(number, reader)?),
            op::GET_CHILDREN2 => Self::Children2(reader.text()?, reader.bool()?),
            op::GET_ACL => Self::GetAcl(reader.text()?),
            op::SYNC => Self::Sync(reader.text()?),
            op::CREATE
            | op::CREATE2
            | op::CREATE_CONTAINER
            | op::CREATE_TTL
            | op::DELETE
            | op::SET_DATA
            | op::SET_ACL
            | op::CHECK => Self::Write(number, write(number, reader)?),
            op::MULTI => multi(reader)?,
            op::MULTI_READ => multi_read(reader)?,
            op::SET_WATCHES => Self::SetWatches(watch_lists(reader, false)?),
            op::SET_WATCHES2 => Self::SetWatches(watch_lists(reader, true)?),
            op::ADD_WATCH => Self::AddWatch(reader.text()?, mode(reader.i32()?)?),
            op::CHECK_WATCHES => Self::CheckWatches(reader.text()?, kind(reader.i32()?)?),
            op::REMOVE_WATCHES => Self::RemoveWatches(reader.text()?, kind(reader.i32()?)?),
            op::GET_EPHEMERALS => Self::GetEphemerals(reader.string()?.unwrap_or_default()),
            op::GET_ALL_CHILDREN_NUMBER => Self::AllChildrenNumber(reader.text()?),
            op::WHO_AM_I => Self::WhoAmI,
            op::AUTH => {
                reader.i32()?;
                Self::Auth(reader.text()?, reader.buffer()?.unwrap_or_default())
            }
            op::SASL => return Err(ErrorCode::AuthFailed),
            op::RECONFIG => return Err(ErrorCode::ReconfigDisabled),
            _ => Self::Unknown,
        })
    }

    /// The name that `cons` shows (`FinalRequestProcessor`'s `lastOp`).
    #[must_use]
    pub fn name(number: i32) -> &'static str {
        match number {
            op::PING => "PING",
            op::CLOSE_SESSION => "CLOS",
            op::EXISTS => "EXIS",
            op::GET_DATA => "GETD",
            op::GET_CHILDREN | op::GET_CHILDREN2 => "GETC",
            op::GET_ACL => "GETA",
            op::SYNC => "SYNC",
            op::CREATE | op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => "CREA",
            op::DELETE => "DELE",
            op::SET_DATA => "SETD",
            op::SET_ACL => "SETA",
            op::CHECK => "CHEC",
            op::MULTI => "MULT",
            op::MULTI_READ => "MLTR",
            op::SET_WATCHES => "SETW",
            op::SET_WATCHES2 => "STW2",
            op::ADD_WATCH => "ADDW",
            op::CHECK_WATCHES => "CHKW",
            op::REMOVE_WATCHES => "REMW",
            op::GET_EPHEMERALS => "GETE",
            op::GET_ALL_CHILDREN_NUMBER => "GETACN",
            op::WHO_AM_I => "HOMI",
            op::RECONFIG => "RECO",
            _ => "NA",
        }
    }
}

fn read<'a>(number: i32, reader: &mut Reader<'a>) -> Result<Read<'a>, ErrorCode> {
    let (path, is_watched) = (reader.text()?, reader.bool()?);
    match number {
        op::GET_DATA => Ok(Read::Data(path, is_watched)),
        op::GET_CHILDREN => Ok(Read::Children(path, is_watched)),
        _ => Err(ErrorCode::Marshalling),
    }
}

fn write(number: i32, reader: &mut Reader<'_>) -> Result<Operation, ErrorCode> {
    let path = reader.text()?.to_owned();
    match number {
        op::DELETE => Ok(Operation::Delete {
            path,
            version: reader.i32()?,
        }),
        op::CHECK => Ok(Operation::Check {
            path,
            version: reader.i32()?,
        }),
        op::SET_DATA => {
            let data = reader.buffer()?.map(Bytes::copy_from_slice);
            Ok(Operation::SetData {
                path,
                data,
                version: reader.i32()?,
            })
        }
        op::SET_ACL => {
            let acl = acls(reader)?;
            Ok(Operation::SetAcl {
                path,
                acl,
                version: reader.i32()?,
            })
        }
        // A stock server offers time-to-live nodes only with zookeeper.extendedTypesEnabled.
        op::CREATE_TTL => Err(ErrorCode::Unimplemented),
        op::CREATE | op::CREATE2 | op::CREATE_CONTAINER => {
            let data = reader.buffer()?.map(Bytes::copy_from_slice);
            let acl = acls(reader)?;
            let (lifetime, is_sequential) = create_mode(reader.i32()?)?;
            let is_container = number == op::CREATE_CONTAINER;
            let lifetime = if is_container {
                Lifetime::Container
            } else {
                lifetime
            };
            Ok(Operation::Create {
                path,
                data,
                acl,
                lifetime,
                is_sequential,
            })
        }
        _ => Err(ErrorCode::Marshalling),
    }
}

/// `CreateMode.fromFlag`.
fn create_mode(flags: i32) -> Result<(Lifetime, bool), ErrorCode> {
    match flags {
        0 => Ok((Lifetime::Persistent, false)),
        1 => Ok((Lifetime::Ephemeral, false)),
        2 => Ok((Lifetime::Persistent, true)),
        3 => Ok((Lifetime::Ephemeral, true)),
        4 => Ok((Lifetime::Container, false)),
        5 | 6 => Err(ErrorCode::Unimplemented),
        _ => Err(ErrorCode::BadArguments),
    }
}

fn acls(reader: &mut Reader<'_>) -> Result<Vec<Acl>, JuteError> {
    let count = reader.count(12)?;
    let mut acls = Vec::with_capacity(count);
    for _ in 0..count {
        let permissions = reader.i32()?;
        // Null is empty for kazoo, and a list with either is judged later.
        let scheme = reader.string()?.unwrap_or_default();
        let id = Id::new(scheme, reader.string()?.unwrap_or_default());
        acls.push(Acl { permissions, id });
    }
    Ok(acls)
}

/// The number of the next operation, or nothing at the end.
fn multi_header(reader: &mut Reader<'_>) -> Result<Option<i32>, JuteError> {
    let number = reader.i32()?;
    let is_done = reader.bool()?;
    reader.i32()?;
    Ok((!is_done).then_some(number))
}

fn multi<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, ErrorCode> {
    let (mut numbers, mut operations) = (Vec::new(), Vec::new());
    while let Some(number) = multi_header(reader)? {
        if number == op::SET_ACL {
            return Err(ErrorCode::Marshalling);
        }
        operations.push(write(number, reader)?);
        numbers.push(number);
    }
    Ok(Request::Multi(numbers, operations))
}

fn multi_read<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, ErrorCode> {
    let mut reads = Vec::new();
    while let Some(number) = multi_header(reader)? {
        reads.push(read(number, reader)?);
    }
    Ok(Request::MultiRead(reads))
}

fn watch_lists<'a>(
    reader: &mut Reader<'a>,
    has_persistent: bool,
) -> Result<WatchLists<'a>, JuteError> {
    let mut lists = WatchLists {
        relative_zxid: reader.i64()?,
        data: reader.strings()?,
        exist: reader.strings()?,
        child: reader.strings()?,
        ..WatchLists::default()
    };
    if has_persistent {
        lists.persistent = reader.strings()?;
        lists.recursive = reader.strings()?;
    }
    Ok(lists)
}

/// `AddWatchMode`; another number is a malformed request there.
fn mode(number: i32) -> Result<Mode, ErrorCode> {
    match number {
        0 => Ok(Mode::Persistent),
        1 => Ok(Mode::Recursive),
        _ => Err(ErrorCode::Marshalling),
    }
}

/// `Watcher.WatcherType`.
fn kind(number: i32) -> Result<Kind, ErrorCode> {
    match number {
        1 => Ok(Kind::Children),
        2 => Ok(Kind::Data),
        3 => Ok(Kind::Any),
        4 => Ok(Kind::Persistent),
        5 => Ok(Kind::PersistentRecursive),
        _ => Err(ErrorCode::Marshalling),
    }
}

/// A reply's frame with its header; the record is appended to it.
#[must_use]
pub fn reply_header(xid: i32, zxid: i64, error: Option<ErrorCode>) -> Writer {
    let mut writer = Writer::packet();
    writer.i32(xid);
    writer.i64(zxid);
    writer.i32(error.map_or(0, |code| code as i32));
    writer
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventType {
    /// The node was created.
    NodeCreated = 1,
    /// The node was deleted.
    NodeDeleted = 2,
    /// Its data were set.
    NodeDataChanged = 3,
    /// Children came or went.
    NodeChildrenChanged = 4,
}

/// An event's packet.
#[must_use]
pub fn notification(event: EventType, path: &str, zxid: i64) -> Bytes {
    let mut writer = reply_header(NOTIFICATION_XID, zxid, None);
    writer.i32(event as i32);
    writer.i32(STATE_SYNC_CONNECTED);
    writer.text(path);
    writer.into_packet().into()
}

/// Appends the header of one result of a transaction.
pub fn write_multi_header(writer: &mut Writer, number: i32, error: i32) {
    writer.i32(number);
    writer.bool(false);
    writer.i32(error);
}

/// Appends the failed result of one operation of a transaction.
pub fn write_multi_error(writer: &mut Writer, error: i32) {
    write_multi_header(writer, op::ERROR, error);
    writer.i32(error);
}

/// Appends the end of a transaction's results.
pub fn write_multi_end(writer: &mut Writer) {
    writer.i32(-1);
    writer.bool(true);
    writer.i32(-1);
}

/// Appends a list.
pub fn write_acls(writer: &mut Writer, acls: &[Acl]) {
    writer.length(acls.len());
    for acl in acls {
        writer.i32(acl.permissions);
        writer.text(&acl.id.scheme);
        writer.text(&acl.id.id);
    }
}

/// Reads a list that [`write_acls`] wrote.
pub fn read_acls(reader: &mut Reader<'_>) -> Result<Vec<Acl>, JuteError> {
    acls(reader)
}
