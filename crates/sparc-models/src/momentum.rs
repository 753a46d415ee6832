//! Momentum copies: parameters that follow those of a network that is trained (He et al. 2020, MoCo; ALBEF).
//!
//! A copy is a network of its own, built like the one it follows; here are the two things that happen to its
//! parameters. It may lack parts of the other (ALBEF's has no matching head), and has no part that the other lacks.

use crate::Parameters;

/// Gives every parameter of the copy the value of its namesake, and takes its gradient away for good.
///
/// # Errors
///
/// Every parameter without a namesake of its shape and kind, one a line; nothing has been copied then.
pub fn start_copy(copy: &mut Parameters, followed: &Parameters) -> Result<(), Vec<String>> {
    let missing: Vec<String> = copy
        .iter()
        .filter_map(|(name, own)| match followed.get(name) {
            None => Some(format!("{name} {:?} has no namesake in the network that it follows", own.size())),
            Some(other) if other.size() != own.size() || other.kind() != own.kind() => Some(format!(
                "{name} is {:?} {:?} in the copy, {:?} {:?} in the network that it follows",
                own.kind(),
                own.size(),
                other.kind(),
                other.size()
            )),
            Some(_) => None,
        })
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    for (name, own) in copy.iter() {
        let _ = own.set_requires_grad(false);
        own.shallow_clone().copy_(&followed.get(name).expect("checked above").detach());
    }
    Ok(())
}

/// θ′ ← m θ′ + (1 − m) θ for every parameter θ′ of the copy.
///
/// # Panics
///
/// If m is outside [0, 1], or the two have not been through [`start_copy`].
pub fn update_copy(copy: &mut Parameters, followed: &Parameters, momentum: f64) {
    assert!((0.0..=1.0).contains(&momentum), "a momentum of {momentum} is outside [0, 1]");
    tch::no_grad(|| {
        for (name, own) in copy.iter() {
            let other = followed.get(name).unwrap_or_else(|| panic!("{name} has no namesake"));
            let _ = own.shallow_clone().lerp_(other, 1.0 - momentum);
        }
    });
}

#[cfg(test)]
mod tests {
    use sparc_testing::{assert_close, random, values};
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::layers::Linear;
    use crate::{Init, ParameterBuilder, weights};

    /// A network of one layer, with a head or without.
    fn network(seed: u64, head: bool) -> (Linear, Parameters) {
        let builder = ParameterBuilder::new(seed, Kind::Float, Device::Cpu);
        let body = Linear::new(&builder.under("body"), 3, 2, true, Init::Normal(1.0));
        if head {
            let _ = Linear::new(&builder.under("head"), 2, 2, true, Init::Normal(1.0));
        }
        (body, builder.finish())
    }

    fn all_values(parameters: &Parameters) -> Vec<f64> {
        parameters.iter().flat_map(|(_, tensor)| values(tensor)).collect()
    }

    #[test]
    fn a_copy_starts_equal_and_follows() {
        let ((_, followed), (layer, mut copy)) = (network(1, true), network(2, false));
        start_copy(&mut copy, &followed).unwrap();
        let start = all_values(&copy);
        assert_eq!(values(copy.get("body.weight").unwrap()), values(followed.get("body.weight").unwrap()));
        // The layer computes with the copied values, and nothing of it wants a gradient.
        let x = random(&[4, 3], 1).to_kind(Kind::Float);
        assert!(!layer.forward(&x).requires_grad());
        let own = followed.get("body.weight").unwrap();
        assert_eq!(values(&layer.forward(&x)), values(&x.linear(&own.detach(), None::<&Tensor>)));
        let _ = tch::no_grad(|| own.shallow_clone().fill_(3.0));
        let mut expected = values(copy.get("body.weight").unwrap());
        for _ in 0..3 {
            update_copy(&mut copy, &followed, 0.9);
            expected.iter_mut().for_each(|value| *value = 0.9 * *value + 0.1 * 3.0);
        }
        for (value, expected) in values(copy.get("body.weight").unwrap()).into_iter().zip(expected) {
            assert_close(value, expected, 1e-6);
        }
        // The copy never moves what it follows; at m = 1 it stays, at m = 0 it is the other.
        assert!(values(own).iter().all(|&value| value == 3.0) && own.requires_grad());
        let before = all_values(&copy);
        assert_ne!(before, start);
        update_copy(&mut copy, &followed, 1.0);
        assert_eq!(all_values(&copy), before);
        update_copy(&mut copy, &followed, 0.0);
        assert_eq!(values(copy.get("body.weight").unwrap()), values(own));
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_nothing_copied() {
        let ((_, followed), (_, mut copy)) = (network(1, false), network(2, true));
        let before = all_values(&copy);
        let found = start_copy(&mut copy, &followed).unwrap_err();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("head.bias [2]") && found[1].contains("head.weight"), "{found:?}");
        assert_eq!(all_values(&copy), before);
    }

    #[test]
    fn a_copy_resumes_exactly() {
        let ((_, followed), (_, mut copy)) = (network(1, true), network(2, false));
        start_copy(&mut copy, &followed).unwrap();
        let _ = tch::no_grad(|| followed.get("body.weight").unwrap().shallow_clone().fill_(0.3));
        update_copy(&mut copy, &followed, 0.995);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("momentum.safetensors");
        weights::save(&path, copy.iter(), std::collections::HashMap::new()).unwrap();
        let (_, mut resumed) = network(9, false);
        resumed.load(&weights::load(&path).unwrap()).unwrap();
        for copy in [&mut copy, &mut resumed] {
            update_copy(copy, &followed, 0.995);
        }
        assert_eq!(all_values(&copy), all_values(&resumed));
    }
}
