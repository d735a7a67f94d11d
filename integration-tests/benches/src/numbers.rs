//! Medians and quantiles of what was measured.

/// The value at this rank of what is sorted: one that was seen.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The middle of them; of an even number the lower one of both in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<_> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    quantile(&all, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let all: Vec<_> = (1..=1_000).map(f64::from).collect();
        let quantiles = [0.5, 0.99, 0.999, 1.0].map(|q| quantile(&all, q));
        assert_eq!(quantiles, [500.0, 990.0, 999.0, 1_000.0].map(Some));
        assert_eq!((quantile(&[], 0.5), median([])), (None, None));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
    }
}
