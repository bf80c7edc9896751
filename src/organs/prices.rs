//! What models cost.
//!
//! Owns the dated table of prices that the program comes with, how a model finds its line there,
//! what the owner says instead, and that each reply says what it cost. Knows no limit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, de};

use crate::kernel::message::{Assistant, Usage};
use crate::kernel::model::{Boxed, Deltas, Failure, Model, Request};
use crate::organs::around::Around;
use crate::organs::config::Config;

/// The table. A test reads it.
static TABLE: LazyLock<BTreeMap<String, Price>> =
    LazyLock::new(|| toml::from_str(include_str!("prices.toml")).unwrap_or_default());

/// Providers that run on the owner's own machine, and the script.
const FREE: [&str; 3] = ["ollama", "llamacpp", "script"];

/// Millionths in one.
const MILLION: u64 = 1_000_000;
/// What a reply can cost or count at all: whatever a server says, sums of it stay numbers.
const MOST: u64 = 1_000_000_000 * MILLION;

/// Money, in millionths of a US dollar; in settings it is written in dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dollars(pub u64);

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        if !(0.0..=1e9).contains(&dollars) {
            return Err(de::Error::custom("expected a number from 0 to a billion"));
        }
        Ok(Self((dollars * MILLION as f64).round() as u64))
    }
}

/// `$12.34`, and `$0.0012` where cents say too little.
impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.0 as f64 / MILLION as f64;
        match self.0 {
            0 => f.write_str("$0"),
            1..100 => f.write_str("$0.0001"),
            100..10_000 => write!(f, "${dollars:.4}"),
            _ => write!(f, "${dollars:.2}"),
        }
    }
}

/// What a million tokens cost, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Input.
    pub input: Dollars,
    /// Output.
    pub output: Dollars,
    /// Input read from the provider's cache; as other input when it is not given.
    pub cache_read: Option<Dollars>,
    /// Input written to the provider's cache; as other input when it is not given.
    pub cache_write: Option<Dollars>,
    /// What is dearer with much input.
    pub long: Option<Long>,
}

/// A request with more input costs so many times as much, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Long {
    /// Tokens of input, beyond which that is so.
    pub over: u64,
    /// How many times as much, in millionths: input, cached or not.
    pub input: Dollars,
    /// The same of output.
    pub output: Dollars,
}

impl Price {
    /// What this costs, rounded up to a millionth of a dollar.
    pub fn of(&self, usage: Usage) -> u64 {
        let Usage { input, output, cache_read, cache_write, .. } = usage;
        let plain = input.saturating_sub(cache_read.saturating_add(cache_write));
        // A price of a million tokens in millionths, times tokens: millionths of millionths.
        let times = |tokens: u64, price: Dollars| u128::from(tokens) * u128::from(price.0);
        let into = times(plain, self.input)
            + times(cache_read, self.cache_read.unwrap_or(self.input))
            + times(cache_write, self.cache_write.unwrap_or(self.input));
        let long = self.long.filter(|long| input > long.over);
        let [more_in, more_out] =
            long.map_or([MILLION; 2], |long| [long.input.0, long.output.0]).map(u128::from);
        let out = times(output, self.output).saturating_mul(more_out);
        let whole = into.saturating_mul(more_in).saturating_add(out);
        u64::try_from(whole.div_ceil(u128::from(MILLION).pow(2))).unwrap_or(u64::MAX)
    }
}

/// What is known of a model's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It costs nothing.
    Free,
    /// The owner says so, whatever the table and the server say.
    Owners(Price),
    /// The table has it. A server that tells what a reply cost knows better.
    Listed(Price),
    /// Nothing, unless its server tells.
    No,
}

impl Known {
    /// What is known of the model of this name, as the owner calls it.
    pub fn of(config: &Config, spec: &str) -> Self {
        let named = config.models.get(spec);
        let (provider, name) = spec.split_once(':').unwrap_or((spec, ""));
        let name = named.map_or(name, |named| named.name.as_str());
        let own = || config.prices.get(spec).or_else(|| config.prices.get(name)).copied();
        match named.and_then(|named| named.price).or_else(own) {
            Some(price) => Self::Owners(price),
            // Whoever answers there may have other prices.
            None if named.is_some_and(|named| named.base_url.is_some()) => Self::No,
            None if named.is_none() && FREE.contains(&provider) => Self::Free,
            None if provider == "openrouter" && name.ends_with(":free") => Self::Free,
            None => listed(name).map_or(Self::No, Self::Listed),
        }
    }

    /// What was used, with what it costs.
    pub fn priced(&self, usage: Usage) -> Usage {
        let Usage { input, output, cache_read, cache_write, cost, .. } = usage;
        let counts = [input, output, cache_read, cache_write, cost];
        let [input, output, cache_read, cache_write, cost] = counts.map(|count| count.min(MOST));
        let usage = Usage { input, output, cache_read, cache_write, cost, unpriced: 0 };
        let (cost, unpriced) = match self {
            Self::Free => (0, 0),
            Self::Owners(price) => (price.of(usage), 0),
            _ if usage.cost > 0 => (usage.cost, 0),
            Self::Listed(price) => (price.of(usage), 0),
            Self::No => (0, usage.total()),
        };
        Usage { cost: cost.min(MOST), unpriced, ..usage }
    }
}

/// In a few words.
impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("nothing"),
            Self::Owners(price) | Self::Listed(price) => {
                write!(f, "{} in, {} out a million tokens", price.input, price.output)
            }
            Self::No => f.write_str("not known"),
        }
    }
}

/// The price of what a provider calls so, with the vendor in front where there is one.
fn listed(name: &str) -> Option<Price> {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let undated = without_date(name);
    // OpenRouter writes claude-opus-4.5.
    let dashed = undated.replace('.', "-");
    [name, undated, &dashed].into_iter().find_map(|name| TABLE.get(name)).copied()
}

/// A name without the date at its end: `-20260101` or `-2026-01-01`.
fn without_date(name: &str) -> &str {
    let shapes: [&[usize]; 2] = [&[8], &[2, 2, 4]];
    let cut = |lengths: &[usize]| {
        lengths.iter().try_fold(name, |rest, length| {
            let (rest, digits) = rest.rsplit_once('-')?;
            let fits = digits.len() == *length && digits.bytes().all(|byte| byte.is_ascii_digit());
            fits.then_some(rest)
        })
    };
    shapes.into_iter().find_map(cut).unwrap_or(name)
}

/// A model whose replies say what they cost.
pub struct Priced {
    model: Arc<dyn Model>,
    known: Known,
}

impl Priced {
    /// This model, of whose price this is known.
    pub fn over(model: Arc<dyn Model>, known: Known) -> Arc<dyn Model> {
        Arc::new(Self { model, known })
    }
}

impl Around for Priced {
    fn within(&self) -> &dyn Model {
        &*self.model
    }

    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move {
            let reply = self.model.ask(request, deltas).await?;
            Ok(Assistant { usage: self.known.priced(reply.usage), ..reply })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::organs::models::PROVIDERS;

    fn usage([input, output, cache_read, cache_write]: [u64; 4]) -> Usage {
        Usage { input, output, cache_read, cache_write, ..Usage::default() }
    }

    #[test]
    fn the_table_can_be_read_and_has_the_default_models() {
        let read: BTreeMap<String, Price> = toml::from_str(include_str!("prices.toml")).unwrap();
        assert!(read.len() > 10 && read == *TABLE);
        for (name, price) in &read {
            let cached = price.cache_read.unwrap();
            assert!(cached < price.input && price.input < price.output, "{name}");
            assert!(price.cache_write.is_none_or(|write| write > price.input), "{name}");
        }
        for provider in PROVIDERS.iter().filter(|one| !["openrouter"].contains(&one.name)) {
            let spec = format!("{}:{}", provider.name, provider.model.unwrap_or("any"));
            assert_ne!(Known::of(&Config::default(), &spec), Known::No, "{spec}");
        }
    }

    #[test]
    fn a_model_finds_its_price_and_no_other() {
        let config = Config::parse(
            "[models.here]\nwire = \"openai\"\nname = \"gpt-5.5\"\nbase_url = \"http://h/v1\"\n\
             [models.alias]\nwire = \"openai\"\nname = \"gpt-5.5\"\n\
             [models.mine]\nwire = \"openai\"\nname = \"gpt-5.5\"\nprice = { input = 9, output = 9 }\n\
             [prices.\"gpt-5.4\"]\ninput = 1\noutput = 2\n\
             [prices.\"ollama:big\"]\ninput = 0.5\noutput = 0.5\n",
        )
        .unwrap();
        let input = |spec: &str| match Known::of(&config, spec) {
            Known::Owners(price) => format!("owner's {}", price.input),
            Known::Listed(price) => price.input.to_string(),
            other => other.to_string(),
        };
        for (spec, expected) in [
            ("anthropic:claude-sonnet-5", "$2.00"),
            ("anthropic:claude-sonnet-5-20260101", "$2.00"),
            ("openai:gpt-5.5-2026-04-23", "$5.00"),
            ("openai:gpt-5.5-pro", "not known"),
            ("openai:gpt-5.5-2026-04", "not known"),
            ("anthropic:claude-sonnet-5-1", "not known"),
            ("openrouter:anthropic/claude-opus-4.5", "$5.00"),
            ("openrouter:openai/gpt-5.5", "$5.00"),
            ("openrouter:any/thing:free", "nothing"),
            ("openrouter:openrouter/auto", "not known"),
            ("openai:gpt-5.4", "owner's $1.00"),
            ("ollama:qwen", "nothing"),
            ("ollama:big", "owner's $0.50"),
            ("llamacpp", "nothing"),
            ("script:/a/gpt-5.5", "nothing"),
            ("here", "not known"),
            ("alias", "$5.00"),
            ("mine", "owner's $9.00"),
        ] {
            assert_eq!(input(spec), expected, "{spec}");
        }
        for wrong in ["-1", "nan", "inf", "1e10", "'1'"] {
            let config = format!("[prices.a]\ninput = {wrong}\noutput = 2\n");
            assert!(Config::parse(&config).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_server_tells_goes_before_the_table_and_after_the_owner() {
        let price = TABLE["gpt-5.5"];
        let said = Usage { cost: 7, ..usage([1_000, 10, 0, 0]) };
        let cost = |known: Known| known.priced(said);
        assert_eq!((cost(Known::Listed(price)).cost, cost(Known::No).cost), (7, 7));
        assert_eq!((cost(Known::Owners(price)).cost, cost(Known::Free).cost), (5_300, 0));
        let absurd = Usage { cost: u64::MAX, ..said };
        assert_eq!(Known::No.priced(absurd).cost, MOST);
        let absurd = Known::No.priced(usage([u64::MAX; 4]));
        assert_eq!((absurd.input, absurd.unpriced), (MOST, 2 * MOST));
        let most = Dollars(MOST);
        let long = Some(Long { over: 0, input: most, output: most });
        let dear = Price { input: most, output: most, cache_read: None, cache_write: None, long };
        assert_eq!(Known::Owners(dear).priced(usage([u64::MAX; 4])).cost, MOST);
        let unsaid = Known::No.priced(usage([1_000, 10, 0, 0]));
        assert_eq!((unsaid.cost, unsaid.unpriced), (0, 1_010));
    }

    #[test]
    fn cached_and_long_input_has_its_own_price() {
        let (sonnet, gpt) = (TABLE["claude-sonnet-5"], TABLE["gpt-5.5"]);
        // 100 plain, 1,000 read, 200 written, 10 out.
        assert_eq!(sonnet.of(usage([1_300, 10, 1_000, 200])), 200 + 200 + 500 + 100);
        assert_eq!(gpt.of(usage([272_000, 1_000, 0, 0])), 1_360_000 + 30_000);
        assert_eq!(gpt.of(usage([272_001, 1_000, 1, 0])), 2_720_000 + 1 + 45_000);
        let odd = Price { cache_read: Some(Dollars(75_000)), ..sonnet };
        assert_eq!(odd.of(usage([1, 0, 1, 0])), 1, "it is rounded up");
    }

    #[test]
    fn money_as_people_read_it() {
        let shown = [0, 3, 4_249, 12_345, 248_000_000].map(|one| Dollars(one).to_string());
        assert_eq!(shown, ["$0", "$0.0001", "$0.0042", "$0.01", "$248.00"]);
    }

    proptest! {
        #[test]
        fn more_never_costs_less_and_parts_cost_what_the_whole_does(
            a in prop::array::uniform4(0..10_000_000_u64),
            b in prop::array::uniform4(0..10_000_000_u64),
            rates in prop::array::uniform4(0..100_000_000_u64),
        ) {
            let [input, output, read, write] = rates.map(Dollars);
            let price =
                Price { input, output, cache_read: Some(read), cache_write: Some(write), long: None };
            // Cached tokens are input, too.
            let whole = |[plain, out, read, write]: [u64; 4]| {
                usage([plain + read + write, out, read, write])
            };
            let both = [0, 1, 2, 3].map(|at| a[at] + b[at]);
            let [one, other, all] = [a, b, both].map(|part| price.of(whole(part)));
            prop_assert!(one <= all && other <= all);
            prop_assert!(all <= one + other && one + other <= all + 1);
        }
    }
}
