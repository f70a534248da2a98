//! Rate limiters, `rate_limit_groups` and `--rate-limit-group` (`spec/config.md` §5).

use keyval::{Options, Syntax};
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::flag::FlagError;

/// Limits of one device or group. The only section that refuses unknown fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RateLimiterConfig {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucketConfig>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucketConfig>,
}

/// A bucket that fills evenly. Without size or refill time it limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenBucketConfig {
    /// Tokens it holds.
    pub size: u64,
    /// Tokens on top of `size` that are not filled again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds from empty to full.
    pub refill_time: u64,
}

/// A limiter that several disks share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RateLimiterGroupConfig {
    /// Name disks refer to.
    #[serde(default)]
    pub id: String,
    /// The limits.
    pub rate_limiter_config: RateLimiterConfig,
}

/// The limiter's keys on the command line, the same for every flag that has one.
const KEYS: [&str; 6] =
    ["bw_size", "bw_one_time_burst", "bw_refill_time", "ops_size", "ops_one_time_burst", "ops_refill_time"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct LimiterOptions {
    bw_size: u64,
    bw_one_time_burst: Option<u64>,
    bw_refill_time: u64,
    ops_size: u64,
    ops_one_time_burst: Option<u64>,
    ops_refill_time: u64,
}

impl RateLimiterConfig {
    /// Takes the limiter's keys out of a flag's options.
    pub(crate) fn take(options: &mut Options) -> Result<Option<Self>, keyval::Error> {
        let own: LimiterOptions = options.split_off(&KEYS).read()?;
        let bucket = |size, one_time_burst, refill_time| {
            (size != 0 && refill_time != 0).then_some(TokenBucketConfig { size, one_time_burst, refill_time })
        };
        let bandwidth = bucket(own.bw_size, own.bw_one_time_burst, own.bw_refill_time);
        let ops = bucket(own.ops_size, own.ops_one_time_burst, own.ops_refill_time);
        Ok((bandwidth.is_some() || ops.is_some()).then_some(Self { bandwidth, ops }))
    }
}

impl RateLimiterGroupConfig {
    /// Options of `--rate-limit-group`.
    pub const SYNTAX: Syntax = Syntax::new(
        "id=<group_id>,bw_size=<bytes>,bw_one_time_burst=<bytes>,bw_refill_time=<ms>,ops_size=<io_ops>,\
         ops_one_time_burst=<io_ops>,ops_refill_time=<ms>",
    );

    /// Reads one `--rate-limit-group`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--rate-limit-group");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let rate_limiter_config = RateLimiterConfig::take(&mut options).map_err(&wrong)?.unwrap_or_default();
        let id = options.take("id").map_err(&wrong)?.unwrap_or_default();
        Ok(Self { id, rate_limiter_config })
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        let limits = &self.rate_limiter_config;
        if self.id.is_empty() {
            at.invalid("id", "Invalid rate-limiter group", "give the group an id");
        } else if limits.bandwidth.is_none() && limits.ops.is_none() {
            let hint = "set bw_size and bw_refill_time, or ops_size and ops_refill_time";
            at.invalid("rate_limiter_config", "Invalid rate-limiter group", hint);
        }
    }
}
