//! The planted bugs of the authentication service.

use super::catcher::{Catcher, Mutant, caught, plain};

const AUTH_RACES: Catcher = plain("hightower-auth", "atomicity", "");
const AUTH_FACTORS: Catcher = plain("hightower-auth", "factors", "");
const AUTH_ADMIN: Catcher = plain("hightower-auth", "admin", "");
const AUTH_TOKENS: Catcher = plain("hightower-auth", "single_use", "");
const AUTH_CRASHES: Catcher = plain("hightower-auth", "crash", "");

pub(super) const OF_AUTH: &[Mutant] = &[
    caught(
        "auth_taken_not_required",
        "a change requires that the records it has read are unchanged",
        &[AUTH_RACES, AUTH_CRASHES],
    ),
    caught(
        "auth_keyspace_of_rejections_ignored",
        "a user's key with the name of a record is not the record",
        &[plain("hightower-auth", "views", "no_key_of_a_user_reaches_the_records")],
    ),
    caught("auth_audit_apart", "a change and its audit entry are one commit", &[AUTH_CRASHES, AUTH_RACES]),
    caught("auth_use_unconditional", "a use is written only if the record is unchanged", &[AUTH_RACES, AUTH_CRASHES]),
    caught("auth_epoch_ignored", "a login is valid only for the password that it checked", &[AUTH_RACES, AUTH_CRASHES]),
    caught("auth_name_apart", "a user and the user's name are one commit", &[AUTH_CRASHES, AUTH_RACES]),
    caught(
        "auth_delete_in_two_commits",
        "a user and all its records are deleted in one commit",
        &[AUTH_CRASHES, AUTH_RACES],
    ),
    caught("auth_owner_not_guarded", "no key is created for a deleted user", &[AUTH_RACES, AUTH_CRASHES]),
    caught(
        "auth_secret_unbound",
        "a principal ends with its secret",
        &[plain("hightower-auth", "service", "principals_end_with_the_secret")],
    ),
    caught(
        "auth_guess_charged_late",
        "an attempt is checked and charged in one step",
        &[plain("hightower-auth", "lib", "attempts_at_the_same_time_do_not_pass_as_one")],
    ),
    caught("auth_code_used_twice", "of concurrent uses of one code one succeeds", &[AUTH_RACES]),
    caught("auth_token_used_twice", "a single-use token is used once", &[AUTH_RACES]),
    caught("auth_totp_replayed", "a one-time password is accepted once", &[AUTH_FACTORS]),
    caught("auth_recovery_code_stays", "a recovery code is accepted once", &[AUTH_FACTORS]),
    caught("auth_factor_not_asked_of_sessions", "a session without a required factor is refused", &[AUTH_FACTORS]),
    caught("auth_password_replaces_factor", "an incomplete login cannot replace a second factor", &[AUTH_FACTORS]),
    caught("auth_codes_not_delayed", "guesses at codes are delayed", &[AUTH_FACTORS]),
    caught("auth_roles_given_freely", "no administrator grants more than its own rights", &[AUTH_ADMIN]),
    caught("auth_admin_of_the_mightier", "no administrator manages a user with more rights", &[AUTH_ADMIN]),
    caught("auth_admin_not_guarded", "an administrator's rights must hold at the commit", &[AUTH_ADMIN]),
    caught("auth_token_purpose_ignored", "a token is for one purpose", &[AUTH_TOKENS]),
    caught("auth_token_outlives_password", "a token ends with the user's password", &[AUTH_TOKENS]),
    caught(
        "key_file_not_claimed",
        "changes of a key file exclude each other",
        &[plain("hightower-auth", "lib", "two_changes_at_once_are_refused")],
    ),
    caught(
        "auth_quota_unlocked",
        "writes under one quota run one at a time",
        &[plain("hightower-auth", "quotas", "writers_at_the_same_time")],
    ),
    caught(
        "auth_quota_stale_refusal",
        "a refusal by a quota relies on a fresh count",
        &[plain("hightower-auth", "quotas", "a_refusal_rests_on")],
    ),
    caught(
        "auth_quota_trusts_versions",
        "a stale delete frees nothing in a quota",
        &[plain("hightower-auth", "quotas", "submitted_versions")],
    ),
    caught(
        "auth_quota_given_away",
        "no administrator grants more than its own quota",
        &[plain("hightower-auth", "quotas", "nobody_gives_away")],
    ),
    caught(
        "auth_looks_of_lower_case",
        "look-alike names are compared as given, too",
        &[plain("hightower-auth", "hardening", "names_that_look_like")],
    ),
    caught(
        "auth_without_reserve",
        "revoking access may use the engine's reserve",
        &[plain("hightower-auth", "on_the_engine", "access_is_taken_away")],
    ),
    caught(
        "auth_reserve_for_all",
        "a principal may not use the engine's reserve",
        &[plain("hightower-auth", "on_the_engine", "access_is_taken_away")],
    ),
    caught(
        "auth_key_file_followed",
        "a key file is a regular file under its own name",
        &[plain("hightower-auth", "lib", "what_is_not_a_private_regular_file")],
    ),
    caught(
        "auth_counters_in_memory",
        "a new service on the store continues the counts of wrong passwords",
        &[plain("hightower-auth", "hardening", "a_service_for_each_guess_is_delayed")],
    ),
    caught(
        "auth_delay_from_the_future",
        "setting the clock back prolongs no delay",
        &[plain("hightower-auth", "hardening", "delays_end_in_time")],
    ),
    caught(
        "auth_trust_survives_reset",
        "a password reset removes the known sources",
        &[plain("hightower-auth", "hardening", "a_reset_forgets_the_sources")],
    ),
    caught(
        "auth_idle_ignored_by_views",
        "a view ends with its session, also by idle expiry",
        &[plain("hightower-auth", "hardening", "idle_expiry_holds_for_views")],
    ),
    caught(
        "auth_range_after_revocation",
        "the iterator of a range ends with a revocation",
        &[plain("hightower-auth", "views", "a_range_ends_with_a_revocation")],
    ),
    caught(
        "auth_rehash_by_iterations",
        "a hash is replaced only by a stronger one",
        &[plain("hightower-auth", "lib", "stronger_hashes_are_never_replaced")],
    ),
    caught(
        "auth_one_limit_for_all",
        "refusals of one principal do not hide those of others",
        &[plain("hightower-auth", "hardening", "noise_hides_no_other")],
    ),
    caught(
        "auth_suppressed_under_one_key",
        "a noisy source's guesses at an account are counted in the trail",
        &[plain("hightower-auth", "unknown_names", "does_not_hide_its_own")],
    ),
    caught(
        "auth_unknown_name_opens",
        "a login with an unknown name fails with every password",
        &[plain("hightower-auth", "unknown_names", "opens_with_no_password")],
    ),
    caught(
        "auth_delayed_costs_the_hash",
        "a delayed attempt computes no user's hash",
        &[plain("hightower-auth", "unknown_names", "computes_no_expensive_hash")],
    ),
    caught(
        "auth_refund_forgets_stored",
        "a right password clears stored failures",
        &[plain("hightower-auth", "lib", "stored_failures_do_not_come_back")],
    ),
    caught(
        "auth_invisible_names",
        "a username has no invisible character",
        &[plain("hightower-auth", "lib", "two_names_that_are_printed_alike")],
    ),
    caught(
        "auth_look_alikes_taken",
        "a new name does not look like another user's",
        &[plain("hightower-auth", "hardening", "names_that_look_like_anothers")],
    ),
    caught(
        "auth_role_revived",
        "a role that is created again has no old holders",
        &[plain("hightower-auth", "hardening", "a_role_that_is_made_again")],
    ),
    caught(
        "auth_role_deleted_meanwhile",
        "a role that is deleted while it is set has no old holders",
        &[plain("hightower-auth", "hardening", "a_role_that_is_deleted_while_it_is_set")],
    ),
    caught(
        "auth_counters_overwritten",
        "services that count wrong passwords concurrently lose none",
        &[plain("hightower-auth", "hardening", "guesses_at_the_same_time")],
    ),
    caught(
        "auth_reset_clears_code_delays",
        "a reset by mail does not clear the delays of codes",
        &[plain("hightower-auth", "factors", "a_reset_by_mail")],
    ),
    caught(
        "auth_own_calls_use_up_reserve",
        "a principal's own calls do not use up the engine's reserve",
        &[plain("hightower-auth", "on_the_engine", "the_reserve_is_not_used_up")],
    ),
    caught(
        "auth_stale_keys_write",
        "no commit uses replaced keys",
        &[plain("hightower-auth", "hardening", "services_on_the_same_store_take_the_new_root")],
    ),
    caught(
        "auth_reseal_one_a_page",
        "a rotation of the root leaves no record under the old one",
        &[plain("hightower-auth", "hardening", "but_not_of_the_root")],
    ),
    caught(
        "auth_anchor_pruned_past",
        "a trail pruned past the anchor does not count as intact",
        &[plain("hightower-auth", "tampering", "the_verifier_finds")],
    ),
];
