//! Owns what an experiment is: which claims it tries, what they say, and how it is played.

use anyhow::Result;

use super::stage::Stage;

/// An experiment of the lab's own.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// Its id: that of the first claim it tries, such as `A1`.
    pub id: &'static str,
    /// Its name, in words with hyphens.
    pub name: &'static str,
    /// The claims that it tries, by id: see [`super::claims`].
    pub claims: &'static [&'static str],
    /// One line.
    pub title: &'static str,
    /// What the claim says, in plain words.
    pub says: &'static str,
    /// What the kernel does, and why: for one who has just seen the readings. With kernel functions
    /// and RFC clauses where they explain something.
    pub why: &'static str,
    /// On what the claim holds, if it is only sometimes right: completes "holds only if".
    pub condition: Option<&'static str>,
    /// About how long it takes, in seconds: those that take long begin first.
    pub seconds: u32,
    /// Plays it. Each thing that is worth knowing becomes a reading of the stage. It fails only when
    /// something could not be tried at all.
    pub play: fn(&mut Stage) -> Result<()>,
}

/// An experiment to be played: one of the lab's own, or a user's.
pub struct Task {
    /// [`Experiment::id`]; the file's name for a user's.
    pub id: String,
    /// [`Experiment::name`]
    pub name: String,
    /// [`Experiment::claims`]
    pub claims: Vec<String>,
    /// [`Experiment::title`]
    pub title: String,
    /// [`Experiment::says`]
    pub says: String,
    /// [`Experiment::why`]
    pub why: String,
    /// [`Experiment::condition`]
    pub condition: Option<String>,
    /// [`Experiment::seconds`]
    pub seconds: u32,
    /// [`Experiment::play`]
    pub play: Play,
}

/// What plays an experiment.
pub type Play = Box<dyn Fn(&mut Stage) -> Result<()> + Send + Sync>;

impl From<&'static Experiment> for Task {
    fn from(experiment: &'static Experiment) -> Self {
        let &Experiment {
            id,
            name,
            claims,
            title,
            says,
            why,
            condition,
            seconds,
            play,
        } = experiment;
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            claims: claims.iter().map(ToString::to_string).collect(),
            title: title.to_owned(),
            says: says.to_owned(),
            why: why.to_owned(),
            condition: condition.map(str::to_owned),
            seconds,
            play: Box::new(play),
        }
    }
}
