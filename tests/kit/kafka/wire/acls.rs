//! Access control lists over the wire: what a user may do with a thing, or may not.
//!
//! Called by `Kafka` of a cluster that has an authorizer.

use super::{Request, call, refused};
use crate::kit::Result;

const DESCRIBE_ACLS: (i16, i16) = (29, 1);
const CREATE_ACLS: (i16, i16) = (30, 1);

/// Names are taken as they are, not as prefixes.
const LITERAL: u8 = 3;
const ANYWHERE: &str = "*";

/// What rights are about.
#[derive(Debug, Clone, Copy)]
pub enum Thing<'a> {
    Topic(&'a str),
    Group(&'a str),
    TransactionalId(&'a str),
}

/// What a user does with it, by Kafka's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Describe = 8,
    DescribeConfigs = 10,
    AlterConfigs = 11,
}

/// Whether it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Deny = 2,
    Allow = 3,
}

/// One entry of the lists.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Acl<'a> {
    pub(in super::super) user: &'a str,
    pub(in super::super) thing: Thing<'a>,
    pub(in super::super) operation: Operation,
    pub(in super::super) permission: Permission,
}

impl Acl<'_> {
    fn write(&self, body: &mut Request) {
        let (kind, name) = match self.thing {
            Thing::Topic(name) => (2, name),
            Thing::Group(name) => (3, name),
            Thing::TransactionalId(name) => (5, name),
        };
        body.bytes(&[kind]).string(name).bytes(&[LITERAL]).string(&format!("User:{}", self.user)).string(ANYWHERE);
        body.bytes(&[self.operation as u8, self.permission as u8]);
    }
}

/// Adds entries. The brokers learn of them a moment later.
pub(in super::super) fn create(address: &str, acls: &[Acl<'_>]) -> Result<()> {
    let mut body = Request::default();
    body.count(acls.len());
    acls.iter().for_each(|acl| acl.write(&mut body));
    let mut answer = call(address, CREATE_ACLS, body)?;
    answer.i32()?;
    answer.count()?;
    for acl in acls {
        let code = answer.i16()?;
        let why = answer.string()?.unwrap_or_default();
        if code != 0 {
            return Err(refused("CreateAcls", &format!("{acl:?}: {why}"), code));
        }
    }
    Ok(())
}

/// True where the broker at `address` goes by this entry.
pub(in super::super) fn is_known(address: &str, acl: &Acl<'_>) -> Result<bool> {
    let mut body = Request::default();
    acl.write(&mut body);
    let mut answer = call(address, DESCRIBE_ACLS, body)?;
    answer.i32()?;
    answer.ok("DescribeAcls", acl.user)?;
    answer.string()?;
    Ok(answer.count()? > 0)
}
