//! Rules as text, for the command line: `fault[=value][,restriction=value]...`.
//!
//! Faults: `error=503:ServiceUnavailable`, `full-body`, `short=BYTES`, `reset=BYTES`, `stall` or
//! `stall=MILLISECONDS[@BYTES]`, `wrong-range=SHIFT`, `replaced`, `flip=OFFSET`, `drip=BYTES_PER_SECOND`,
//! `skew=SECONDS`, `garble=BYTES`, `header=NAME:VALUE`, `close`, `close-after`, `excess=BYTES`, `excess-declared=BYTES`, `delete=KEY`, `put=KEY:SIZE`.
//! Restrictions: `key=PATTERN`, `method=GET`, `op=get|head|meta|list|metadata|sts`, `range=FIRST-LAST`, `nth=N`,
//! `skip=N`, `times=N`, `probability=P`, `seed=N`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Fault, Rule};
use crate::log::Operation;

impl FromStr for Rule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',').map(|part| part.split_once('=').unwrap_or((part, "")));
        let (name, value) = parts.next().unwrap_or_default();
        let fault = fault(name, value).with_context(|| format!("fault {name:?} with value {value:?}"))?;
        let mut rule = Self::new(fault);
        let (mut probability, mut seed) = (None, 0);
        for (name, value) in parts {
            rule = match name {
                "probability" => {
                    probability = Some(value.parse().context("probability is not a number")?);
                    rule
                }
                "seed" => {
                    seed = number(value)?;
                    rule
                }
                _ => restrict(rule, name, value).with_context(|| format!("restriction {name}={value}"))?,
            };
        }
        if let Some(probability) = probability {
            ensure!((0.0..=1.0).contains(&probability), "probability is not between 0 and 1");
            rule = rule.probability(probability, seed);
        }
        Ok(rule)
    }
}

fn fault(name: &str, value: &str) -> Result<Fault> {
    Ok(match name {
        "error" => {
            let (status, code) = value.split_once(':').context("expected STATUS:CODE")?;
            Fault::Error {
                status: status.parse().context("the status is not a number")?,
                code: code.to_owned(),
            }
        }
        "full-body" => Fault::FullBody,
        "short" => Fault::Short { after: number(value)? },
        "reset" => Fault::Reset { after: number(value)? },
        "stall" if value.is_empty() => Fault::Stall { after: None, time: None },
        "stall" => {
            let (time, after) =
                value.split_once('@').map_or((value, None), |(time, after)| (time, Some(after)));
            let after = after.map(number).transpose()?;
            Fault::Stall { after, time: Some(Duration::from_millis(number(time)?)) }
        }
        "wrong-range" => Fault::WrongRange { shift: value.parse().context("expected a number")? },
        "replaced" => Fault::Replaced,
        "flip" => Fault::Flip { offset: number(value)? },
        "drip" => Fault::Drip { rate: number(value)? },
        "skew" => Fault::Skew { seconds: value.parse().context("expected a number")? },
        "garble" => Fault::Garble { after: number(value)? },
        "header" => {
            let (name, value) = value.split_once(':').context("expected NAME:VALUE")?;
            Fault::Header { name: name.to_owned(), value: value.to_owned() }
        }
        "close" => Fault::Close,
        "close-after" => Fault::CloseAfter,
        "excess" => Fault::Excess { bytes: number(value)?, declared: false },
        "excess-declared" => Fault::Excess { bytes: number(value)?, declared: true },
        "delete" => Fault::Delete { key: value.to_owned() },
        "put" => {
            let (key, size) = value.rsplit_once(':').context("expected KEY:SIZE")?;
            Fault::Put { key: key.to_owned(), size: number(size)? }
        }
        _ => bail!("there is no such fault"),
    })
}

fn restrict(rule: Rule, name: &str, value: &str) -> Result<Rule> {
    Ok(match name {
        "key" => rule.key(value),
        "method" => rule.method(value),
        "op" => rule.operation(match value {
            "get" => Operation::Get,
            "head" => Operation::Head,
            "meta" => Operation::Meta,
            "list" => Operation::List,
            "metadata" => Operation::Metadata,
            "sts" => Operation::Sts,
            _ => bail!("there is no such operation"),
        }),
        "range" => {
            let (first, last) = value.split_once('-').context("expected FIRST-LAST")?;
            rule.range(number(first)?..number(last)?.saturating_add(1))
        }
        "nth" => rule.nth(number(value)?),
        "skip" => rule.skip(number(value)?),
        "times" => rule.times(number(value)?),
        _ => bail!("there is no such restriction"),
    })
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text:?} is not a whole number"))
}
