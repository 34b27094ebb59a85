//! The modifiers of one instruction, each of which must be understood.

/// Modifiers not yet consumed.
pub(crate) struct Mods<'a> {
    left: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn new(mods: &'a [String]) -> Self {
        Mods { left: mods.iter().map(String::as_str).collect() }
    }

    /// Consumes a modifier if it is there.
    pub fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|m| *m == name) {
            Some(i) => {
                self.left.remove(i);
                true
            }
            None => false,
        }
    }

    /// Consumes the first modifier for which `f` gives a value.
    pub fn find<T>(&mut self, f: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let (i, value) = self.left.iter().enumerate().find_map(|(i, m)| Some((i, f(m)?)))?;
        self.left.remove(i);
        Some(value)
    }

    /// Consumes the last modifier for which `f` gives a value.
    pub fn find_last<T>(&mut self, f: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let (i, value) = self.left.iter().enumerate().rev().find_map(|(i, m)| Some((i, f(m)?)))?;
        self.left.remove(i);
        Some(value)
    }

    /// Consumes one of the names and says which.
    pub fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        self.find(|m| names.iter().find(|n| **n == m).copied())
    }

    /// What nobody asked for.
    pub fn rest(&self) -> Option<&'a str> {
        self.left.first().copied()
    }
}
