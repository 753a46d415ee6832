//! Means over cases, such as regions, captions or phrases, with intervals for which their images are resampled.

use std::collections::BTreeMap;

use super::{Bootstrap, Interval, bootstrap};

/// The values of cases, added up image by image: of all cases together, or in groups, such as classes, whose means are
/// averaged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageMeans {
    /// What each image has in each group.
    images: BTreeMap<usize, BTreeMap<usize, Sum>>,
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
struct Sum {
    values: f64,
    n_cases: f64,
}

impl ImageMeans {
    /// Counts a case of an image.
    pub fn add(&mut self, image: usize, value: f64) {
        self.add_to_group(image, 0, value);
    }

    /// Counts a case of an image in a group; groups are numbered from 0, without great gaps.
    pub fn add_to_group(&mut self, image: usize, group: usize, value: f64) {
        let sum = self.images.entry(image).or_default().entry(group).or_default();
        sum.values += value;
        sum.n_cases += 1.0;
    }

    /// Interval of the mean over cases, of several groups that of the unweighted mean of their means: images are
    /// resampled with all their cases. A group of which a resample has no case is left out of its mean. `None` without
    /// cases; `purpose` as in [`bootstrap()`].
    ///
    /// # Panics
    ///
    /// As [`bootstrap()`].
    pub fn interval(&self, purpose: &str, options: Bootstrap) -> Option<Interval> {
        // In an order of their own, which does not depend on that of the data.
        let mut units: Vec<Vec<(usize, Sum)>> =
            self.images.values().map(|groups| groups.iter().map(|(group, sum)| (*group, *sum)).collect()).collect();
        units.sort_by(|a, b| a.partial_cmp(b).expect("sums are numbers"));
        let n_groups = units.iter().flatten().map(|(group, _)| group + 1).max().unwrap_or(0);
        bootstrap(units.len(), purpose, options, |counts| {
            let mut sums = vec![Sum::default(); n_groups];
            for (unit, &count) in units.iter().zip(counts).filter(|(_, count)| **count > 0) {
                for &(group, Sum { values, n_cases }) in unit {
                    sums[group].values += f64::from(count) * values;
                    sums[group].n_cases += f64::from(count) * n_cases;
                }
            }
            let met = || sums.iter().filter(|sum| sum.n_cases > 0.0);
            let n_met = met().count();
            (n_met > 0).then(|| met().map(|sum| sum.values / sum.n_cases).sum::<f64>() / n_met as f64)
        })
    }
}

/// Of images and values.
impl FromIterator<(usize, f64)> for ImageMeans {
    fn from_iter<T: IntoIterator<Item = (usize, f64)>>(cases: T) -> ImageMeans {
        let mut means = ImageMeans::default();
        cases.into_iter().for_each(|(image, value)| means.add(image, value));
        means
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: Bootstrap = Bootstrap { confidence: 0.95, n_resamples: 500, seed: 3 };

    /// Cases of images: image, group, value.
    type Cases = Vec<(usize, usize, f64)>;

    fn means(cases: &Cases) -> ImageMeans {
        let mut means = ImageMeans::default();
        cases.iter().for_each(|&(image, group, value)| means.add_to_group(image, group, value));
        means
    }

    /// Draws images one after the other, lists the cases of all that were drawn, and averages them.
    fn naive(cases: &Cases, n_images: usize) -> Option<Interval> {
        bootstrap(n_images, "x", OPTIONS, |counts| {
            let drawn: Vec<usize> = (0..n_images).flat_map(|image| vec![image; counts[image] as usize]).collect();
            assert_eq!(drawn.len(), n_images);
            let listed: Vec<(usize, f64)> = drawn
                .iter()
                .flat_map(|image| cases.iter().filter(move |case| case.0 == *image).map(|case| (case.1, case.2)))
                .collect();
            let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
            let of_group = |group: usize| listed.iter().filter(|case| case.0 == group).map(|case| case.1).collect();
            let occurring: Vec<Vec<f64>> =
                (0..9).map(of_group).filter(|values: &Vec<f64>| !values.is_empty()).collect();
            Some(mean(occurring.into_iter().map(mean).collect()))
        })
    }

    /// Every image has a case in group 0 that grows with its number, so that numbers are the order of the units.
    fn cases() -> impl Strategy<Value = (Cases, usize)> {
        proptest::collection::vec(proptest::collection::vec((0usize..4, 0.0f64..1.0), 0..4), 1..9).prop_map(|images| {
            let n_images = images.len();
            let of_image = |(image, more): (usize, Vec<(usize, f64)>)| {
                let more = more.into_iter().filter(|(group, _)| *group > 0);
                std::iter::once((0, image as f64)).chain(more).map(move |(group, value)| (image, group, value))
            };
            (images.into_iter().enumerate().flat_map(of_image).collect(), n_images)
        })
    }

    #[test]
    fn a_constant_has_no_width() {
        let same = means(&(0..40).map(|case| (case / 3, case % 5, 0.25)).collect());
        assert_eq!(same.interval("x", OPTIONS), Some(Interval { low: 0.25, high: 0.25 }));
        assert_eq!(ImageMeans::default().interval("x", OPTIONS), None);
    }

    #[test]
    fn the_same_seed_and_purpose_draw_the_same() {
        let spread: ImageMeans = (0..30).map(|case| (case, f64::from(case as u32).sqrt())).collect();
        assert_eq!(spread.interval("x", OPTIONS), spread.interval("x", OPTIONS));
        assert_ne!(spread.interval("x", OPTIONS), spread.interval("x", Bootstrap { seed: 4, ..OPTIONS }));
        assert_ne!(spread.interval("x", OPTIONS), spread.interval("y", OPTIONS));
    }

    #[test]
    fn cases_of_one_image_stay_together() {
        // Twenty right and twenty wrong cases: of forty images, or of two.
        let width = |n_images: usize| {
            let spread: ImageMeans =
                (0..40).map(|case| (case * n_images / 40, f64::from(u8::from(case < 20)))).collect();
            let Interval { low, high } = spread.interval("x", OPTIONS).unwrap();
            high - low
        };
        assert!(width(2) > 0.99 && width(40) < 0.4, "{} and {}", width(2), width(40));
    }

    proptest! {
        #[test]
        fn agrees_with_listing_what_was_drawn((cases, n_images) in cases()) {
            let (fast, slow) = (means(&cases).interval("x", OPTIONS).unwrap(), naive(&cases, n_images).unwrap());
            prop_assert!((fast.low - slow.low).abs() < 1e-12 && (fast.high - slow.high).abs() < 1e-12, "{fast:?} {slow:?}");
        }

        #[test]
        fn names_of_images_change_nothing((cases, n_images) in cases(), by in 0usize..9) {
            let renamed: Cases = cases.iter().map(|&(image, group, value)| ((image + by) % n_images, group, value)).collect();
            prop_assert_eq!(means(&cases).interval("x", OPTIONS), means(&renamed).interval("x", OPTIONS));
        }
    }
}
