//! `auth role`: named lists of grants, and their users.

use clap::Subcommand;
use hightower_kv::auth::{Error, Grant, MAX_PAGE, RoleRecord};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::verbs::auth::grant::GrantText;
use crate::verbs::auth::secret::confirm;
use crate::verbs::auth::service::{Auth, Context, user};
use crate::verbs::auth::view;

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth role define operator read,write:prefix:jobs/ read:key:motd
  htkvctl auth role grant alice operator
  htkvctl auth role list
  htkvctl auth role revoke alice operator";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a role, or replace its grants
    #[command(after_help = "A GRANT is actions and keys:
  read,write:prefix:jobs/     the keys that start with jobs/
  read:key:motd               one key
  read:range:a..f             from a (inclusive) to f (exclusive); `a..` and `..f` are open
  admin:all                   every key but the service's own

  read   read values, list keys, and state requirements on keys in a batch
  write  put and delete
  admin  submit commands with explicit versions

No action implies another. Keys are in the common notation: b\"...\" for any bytes.

  write,max-keys=10000,max-bytes=64000000:prefix:tenant-a/
            a quota: the maximum under the range, for all writers; above it, only deletes.
            All quotas on a key hold, unless a grant without one allows the same

Examples:
  htkvctl auth role define operator read,write:prefix:jobs/ read:key:motd
  htkvctl auth role define tenant-a read,write,max-keys=10000:prefix:tenant-a/
  htkvctl auth role define nobody --nothing  removes all its grants")]
    Define {
        /// The name: ASCII letters, digits and . _ - :
        role: String,
        /// The grants; 256 at most
        grants: Vec<GrantText>,
        /// No grants
        #[arg(long, conflicts_with = "grants")]
        nothing: bool,
    },
    /// List roles, in the order of their names
    #[command(after_help = "Example:
  htkvctl auth role list --json | jq -r '.role + \" \" + (.grants | join(\" \"))'")]
    List,
    /// Show the grants of a role
    #[command(after_help = "Example:
  htkvctl auth role show operator")]
    Show {
        /// The name
        role: String,
    },
    /// Remove a role: its holders lose its rights at once
    #[command(after_help = "Example:
  htkvctl auth role remove operator

Exit code 1 if there is no such role. Asks first on a terminal.")]
    Remove {
        /// The name
        role: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Add roles to a user
    #[command(after_help = "Example:
  htkvctl auth role grant alice operator auditor

Exit code 1 if there is no such user or role. An API key gets its roles when it is created.")]
    Grant {
        /// The name or id
        user: String,
        /// The roles
        #[arg(required = true)]
        roles: Vec<String>,
    },
    /// Remove roles from a user, at once
    #[command(after_help = "Example:
  htkvctl auth role revoke alice operator")]
    Revoke {
        /// The name or id
        user: String,
        /// The roles
        #[arg(required = true)]
        roles: Vec<String>,
    },
}

#[derive(Serialize)]
struct Removed<'a> {
    outcome: &'static str,
    role: &'a str,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Define { grants, nothing: false, .. } if grants.is_empty() => Err(Failure::Usage(
                "name the grants of the role, or use --nothing: without grants the role would allow nothing".into(),
            )),
            Self::Define { role, grants, .. } => define(context, role, grants),
            Self::List => {
                let roles = context.read(list)?;
                let views: Vec<_> = roles.iter().map(view::Role::from).collect();
                view::many(screen, &views, "no roles")
            }
            Self::Show { role } => view::one(screen, &view::Role::from(&context.read(|auth| find(auth, role))?)),
            Self::Remove { role, yes } => {
                confirm(*yes, &format!("remove the role {role} from all users and API keys"))?;
                remove(context, role)
            }
            Self::Grant { user, roles } => change(context, user, roles, &[]),
            Self::Revoke { user, roles } => change(context, user, &[], roles),
        }
    }
}

fn define(context: &Context<'_>, name: &str, grants: &[GrantText]) -> Result<Exit, Failure> {
    let grants: Vec<Grant> = grants.iter().map(|grant| grant.0.clone()).collect();
    let role = context.create(|auth| Ok(auth.set_role(name, &grants)?))?;
    view::one(context.session.screen, &view::Role::from(&role))
}

fn list(auth: &Auth) -> Result<Vec<RoleRecord>, Failure> {
    let mut roles: Vec<RoleRecord> = Vec::new();
    loop {
        interrupt::check()?;
        let page = auth.list_roles(roles.last().map(|role| &*role.name), MAX_PAGE)?;
        if page.is_empty() {
            return Ok(roles);
        }
        roles.extend(page);
    }
}

fn find(auth: &Auth, name: &str) -> Result<RoleRecord, Failure> {
    Ok(auth.get_role(name)?.ok_or(Error::NotFound("no role has this name"))?)
}

fn remove(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    if !context.change(|auth| Ok(auth.delete_role(name)?))? {
        return Err(Error::NotFound("no role has this name").into());
    }
    context.session.screen.answer(&Removed { outcome: "removed", role: name }, || format!("removed {name}"))?;
    Ok(Exit::Done)
}

fn change(context: &Context<'_>, name: &str, add: &[String], remove: &[String]) -> Result<Exit, Failure> {
    let user = context.change(|auth| {
        let user_id = user(auth, name)?.user_id;
        add.iter().try_for_each(|role| find(auth, role).map(drop))?;
        Ok(auth.change_user_roles(&user_id, add, remove)?)
    })?;
    view::one(context.session.screen, &view::User::from(&user))
}
