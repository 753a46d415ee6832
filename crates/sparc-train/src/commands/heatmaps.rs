//! What heatmaps are of, as flags name it.

use sparc_eval::tasks::Heatmaps;

/// `similarity`, `grad-cam` or `grad-cam:LAYER`, layers counted from 1.
pub fn parse_heatmaps(text: &str) -> Result<Heatmaps, String> {
    let layer = |number: &str| number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match text.split_once(':') {
        None if text == "similarity" => Ok(Heatmaps::Similarity),
        None if text == "grad-cam" => Ok(Heatmaps::GradCam { layer: None }),
        Some(("grad-cam", number)) if layer(number).is_some() => Ok(Heatmaps::GradCam { layer: layer(number) }),
        _ => {
            Err("expected similarity, grad-cam or grad-cam:LAYER, the first layer of the fusion encoder being 1".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_from_one() {
        assert_eq!(parse_heatmaps("similarity"), Ok(Heatmaps::Similarity));
        assert_eq!(parse_heatmaps("grad-cam"), Ok(Heatmaps::GradCam { layer: None }));
        assert_eq!(parse_heatmaps("grad-cam:3"), Ok(Heatmaps::GradCam { layer: Some(2) }));
        for wrong in ["", "grad-cam:0", "grad-cam:", "grad-cam:-1", "similarity:1", "cam"] {
            assert!(parse_heatmaps(wrong).unwrap_err().contains("grad-cam:LAYER"), "{wrong}");
        }
    }
}
