use proptest::prelude::*;

use super::super::state::{Change, ConfigState};
use super::*;
use lakeferry_api::Config;

/// Carries the plan out as the loop does, with instances that start, fail or are parked at once.
struct Model {
    state: ConfigState,
    running: Running,
    fails: bool,
    done: Vec<Action>,
}

impl Model {
    fn new() -> Self {
        Self { state: ConfigState::default(), running: Running::default(), fails: false, done: Vec::new() }
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.state.apply(change));
    }

    fn settle(&mut self, tasks: u32) -> Vec<Action> {
        self.done.clear();
        while let Some(action) = next(self.state.connector("c"), &self.running) {
            assert!(self.done.len() < 20, "the plan does not end: {:?}", self.done);
            self.carry_out(&action, tasks);
            self.done.push(action);
        }
        self.done.clone()
    }

    fn carry_out(&mut self, action: &Action, tasks: u32) {
        let desired = self.state.connector("c").cloned();
        let revision = desired.as_ref().map_or(0, |desired| desired.revision);
        match action {
            Action::StopTasks(ids) => self.running.tasks.retain(|id, _| !ids.contains(id)),
            Action::StopConnector => self.running.instance = Instance::Absent,
            Action::StartConnector if self.fails => self.running.instance = Instance::Failed { revision },
            Action::StartConnector => {
                self.running.instance = Instance::Live { revision };
                let configs: Vec<_> = (0..tasks).map(task_config).collect();
                if desired.unwrap().tasks_differ(&configs) {
                    self.state.apply(Change::Tasks { connector: name(), configs });
                }
            }
            Action::Park(target) => self.running.instance = Instance::Parked { revision, target: *target },
            Action::StartTasks(ids) => {
                let desired = desired.unwrap();
                for id in ids {
                    let revision = desired.tasks[*id as usize].revision;
                    let paused = desired.target == TargetState::Paused;
                    assert!(self.running.tasks.insert(*id, RunningTask { revision, paused }).is_none());
                }
            }
            Action::PauseTasks(ids) => self.mark(ids, true),
            Action::ResumeTasks(ids) => self.mark(ids, false),
        }
    }

    fn mark(&mut self, ids: &[u32], paused: bool) {
        ids.iter().for_each(|id| self.running.tasks.get_mut(id).unwrap().paused = paused);
    }
}

fn name() -> String {
    "c".to_owned()
}

fn task_config(id: u32) -> Config {
    Config::from([("task".to_owned(), id.to_string())])
}

fn put() -> Change {
    Change::Put { connector: name(), config: Config::new() }
}

fn changed() -> Change {
    Change::Put { connector: name(), config: Config::from([("new".to_owned(), "1".to_owned())]) }
}

fn target(target: TargetState) -> Change {
    Change::Target { connector: name(), target }
}

fn stop() -> [Change; 2] {
    [Change::Tasks { connector: name(), configs: Vec::new() }, target(TargetState::Stopped)]
}

#[test]
fn a_new_connector_starts_and_then_its_tasks() {
    let mut model = Model::new();
    model.apply([put()]);
    assert_eq!(model.settle(2), [Action::StartConnector, Action::StartTasks(vec![0, 1])]);
    assert_eq!(model.settle(2), []);
}

#[test]
fn a_new_config_restarts_the_instance_first_and_the_tasks_after_it() {
    let mut model = Model::new();
    model.apply([put()]);
    model.settle(2);
    model.apply([changed()]);
    assert_eq!(
        model.settle(1),
        [Action::StopConnector, Action::StartConnector, Action::StopTasks(vec![0, 1]), Action::StartTasks(vec![0])]
    );
}

#[test]
fn pause_keeps_the_tasks_and_stop_removes_them() {
    let mut model = Model::new();
    model.apply([put()]);
    model.settle(1);
    model.apply([target(TargetState::Paused)]);
    let paused = [Action::StopConnector, Action::Park(TargetState::Paused), Action::PauseTasks(vec![0])];
    assert_eq!(model.settle(1), paused);
    model.apply([target(TargetState::Started)]);
    assert_eq!(model.settle(1), [Action::StartConnector, Action::ResumeTasks(vec![0])]);
    model.apply(stop());
    let stopped = [Action::StopTasks(vec![0]), Action::StopConnector, Action::Park(TargetState::Stopped)];
    assert_eq!(model.settle(1), stopped);
    model.apply([target(TargetState::Started)]);
    assert_eq!(model.settle(1), [Action::StartConnector, Action::StartTasks(vec![0])]);
}

#[test]
fn a_failed_instance_stays_failed_until_a_stop_or_another_revision() {
    let mut model = Model::new();
    model.fails = true;
    model.apply([put()]);
    assert_eq!(model.settle(1), [Action::StartConnector]);
    model.apply([target(TargetState::Paused)]);
    assert_eq!(model.settle(1), []);
    model.apply([target(TargetState::Started)]);
    assert_eq!(model.settle(1), []);
    model.apply(stop());
    assert_eq!(model.settle(1), [Action::Park(TargetState::Stopped)]);
    model.fails = false;
    model.apply([target(TargetState::Started)]);
    assert_eq!(model.settle(1), [Action::StartConnector, Action::StartTasks(vec![0])]);
}

#[test]
fn a_task_restart_touches_that_task_only() {
    let mut model = Model::new();
    model.apply([put()]);
    model.settle(3);
    model.apply([Change::RestartTask { connector: name(), task: 1 }]);
    assert_eq!(model.settle(3), [Action::StopTasks(vec![1]), Action::StartTasks(vec![1])]);
    model.apply([Change::RestartConnector { connector: name() }]);
    assert_eq!(model.settle(3), [Action::StopConnector, Action::StartConnector]);
}

#[test]
fn what_is_deleted_stops_altogether() {
    let mut model = Model::new();
    model.apply([put()]);
    model.settle(2);
    model.apply([Change::Removed { connector: name() }]);
    assert_eq!(model.settle(2), [Action::StopTasks(vec![0, 1]), Action::StopConnector]);
}

fn any_change() -> impl Strategy<Value = Vec<Change>> {
    prop_oneof![
        Just(vec![put()]),
        Just(vec![changed()]),
        Just(vec![Change::Removed { connector: name() }]),
        Just(vec![target(TargetState::Paused)]),
        Just(vec![target(TargetState::Started)]),
        Just(stop().to_vec()),
        Just(vec![Change::RestartConnector { connector: name() }]),
        (0..3_u32).prop_map(|task| vec![Change::RestartTask { connector: name(), task }]),
    ]
}

proptest! {
    /// However changes and partly carried-out plans interleave, the plan ends with exactly what should be.
    #[test]
    fn the_plan_always_ends_where_it_should(
        steps in prop::collection::vec((any_change(), 0..4_usize, 0..3_u32, any::<bool>()), 1..30)
    ) {
        let mut model = Model::new();
        for (changes, actions, tasks, fails) in steps {
            model.apply(changes);
            model.fails = fails;
            for _ in 0..actions {
                if let Some(action) = next(model.state.connector("c"), &model.running) {
                    model.carry_out(&action, tasks);
                }
            }
        }
        model.settle(2);
        let running = &model.running;
        match model.state.connector("c") {
            None => {
                prop_assert!(running.tasks.is_empty());
                prop_assert!(!matches!(running.instance, Instance::Live { .. }), "{:?}", running.instance);
            }
            Some(desired) => {
                let tasks: Vec<u64> = desired.tasks.iter().map(|task| task.revision).collect();
                prop_assert_eq!(running.tasks.values().map(|task| task.revision).collect::<Vec<_>>(), tasks);
                let paused = desired.target == TargetState::Paused;
                prop_assert!(running.tasks.values().all(|task| task.paused == paused));
                if desired.target == TargetState::Stopped {
                    prop_assert!(matches!(running.instance, Instance::Parked { .. }), "not parked");
                }
            }
        }
    }
}
