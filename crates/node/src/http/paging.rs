//! Lists in pages: each goes on after the last item of the one before, so that
//! what comes and goes meanwhile neither repeats nor hides anything.

use std::fmt::Display;
use std::str::FromStr;

use inn_api::Code;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::Failed;

/// The largest page.
pub(super) const LARGEST: usize = 1_000;

/// A list's parameters, as the query has them.
#[derive(Debug)]
pub(super) struct Paging {
    limit: usize,
}

impl Paging {
    /// Without a limit a list is whole.
    pub(super) fn new(limit: Option<usize>) -> Result<Self, Failed> {
        match limit {
            None => Ok(Self { limit: usize::MAX }),
            Some(limit @ 1..=LARGEST) => Ok(Self { limit }),
            Some(limit) => {
                Err(Failed::invalid(format!("limit {limit} is not between 1 and {LARGEST}")))
            }
        }
    }

    /// As many of `items` as a page has, and the cursor to the next one if
    /// there is one.
    pub(super) fn page<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        cursor: impl Fn(&T) -> String,
    ) -> (Vec<T>, Option<String>) {
        let mut items = items.into_iter();
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let next = match items.next() {
            Some(_) => page.last().map(cursor),
            None => None,
        };
        (page, next)
    }
}

/// What a list takes that has nothing to choose from.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// The most of a page: 1 to 1000; all unless given.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// Only what comes after: the `next` of the page before.
    pub(super) after: Option<String>,
}

/// Where something stands in the order of its making. It holds for what is
/// gone, too.
pub(super) type Place<I> = (Timestamp, I);

pub(super) fn cursor<I: Display>((made, id): Place<I>) -> String {
    format!("{}-{id}", made.as_nanosecond())
}

pub(super) fn place<I: FromStr>(cursor: &str) -> Result<Place<I>, Failed> {
    let place = cursor.rsplit_once('-').and_then(|(made, id)| {
        let made = Timestamp::from_nanosecond(made.parse().ok()?).ok()?;
        Some((made, id.parse().ok()?))
    });
    place.ok_or_else(|| {
        let shown: String = cursor.chars().take(80).collect();
        let detail = format!("after `{shown}` is not what a list's `next` said");
        Failed::new(Code::InvalidRequest, detail)
    })
}

/// The page of what is made at some time and has an id, oldest first.
pub(super) fn page_of<T, I: Display + FromStr + Ord + Copy>(
    params: &PageParams,
    mut items: Vec<T>,
    place_of: impl Fn(&T) -> Place<I>,
) -> Result<(Vec<T>, Option<String>), Failed> {
    let paging = Paging::new(params.limit)?;
    let after = params.after.as_deref().map(place::<I>).transpose()?;
    items.retain(|item| after.is_none_or(|after| place_of(item) > after));
    items.sort_by_key(&place_of);
    Ok(paging.page(items, |item| cursor(place_of(item))))
}

#[cfg(test)]
mod tests {
    use inn_units::VmId;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_pages_are_whole() {
        let first = (
            Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap(),
            VmId::from_bytes([7; 5]),
        );
        assert_eq!(place::<VmId>(&cursor(first)).unwrap(), first);
        for wrong in ["", "-", "x-0707070707", "1-x", "99999999999999999999999999999-0707070707"] {
            assert!(place::<VmId>(wrong).is_err(), "{wrong}");
        }
        let pages = Paging::new(Some(2)).unwrap();
        assert_eq!(pages.page(1..=3, i32::to_string), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(pages.page(1..=2, i32::to_string), (vec![1, 2], None));
        assert_eq!(Paging::new(None).unwrap().page(1..=3, i32::to_string).0.len(), 3);
        assert!(Paging::new(Some(0)).is_err() && Paging::new(Some(1_001)).is_err());
    }
}
