"""The worker's settings: what reaches the SDK, and what contradicts itself."""

import pytest
from temporalio.common import VersioningBehavior
from temporalio.worker import PollerBehaviorAutoscaling, PollerBehaviorSimpleMaximum, WorkerTuner

from orkestra import OrkestraConfig, WorkerSettings
from orkestra.errors import ConfigurationError
from orkestra.temporal.worker import activity_threads, sdk_options


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tuner": {}, "max_concurrent_nexus_tasks": 3}, "tuner and max_concurrent_nexus_tasks"),
        ({"max_concurrent_workflow_tasks": 1}, "max_concurrent_workflow_tasks = 1"),
        ({"workflow_task_poller_behavior": {"maximum": 1}}, "max_cached_workflows = 0"),
        ({"activity_task_poller_behavior": {"minimum": 2}}, "autoscaling = true"),
        (
            {"nexus_task_poller_behavior": {"autoscaling": True, "minimum": 9, "maximum": 3}},
            "ascending order",
        ),
        ({"default_heartbeat_throttle_interval": "2m"}, "max_heartbeat_throttle_interval"),
        ({"deployment_config": {"deployment_name": "a.b", "build_id": "1"}}, "deployment_name"),
        (
            {
                "deployment_config": {
                    "deployment_name": "a",
                    "build_id": "1",
                    "use_worker_versioning": False,
                    "default_versioning_behavior": "pinned",
                }
            },
            "use_worker_versioning = true",
        ),
        ({"max_activities_per_second": 0}, "max_activities_per_second"),
        ({"probes_address": "127.0.0.1"}, "host:port"),
        ({"probes_address": "127.0.0.1:99999"}, "host:port"),
        ({"tuner": {"target_cpu_usage": 1.1}}, "target_cpu_usage"),
    ],
)
def test_a_contradiction_is_refused_with_the_names_of_its_settings(settings, named):
    with pytest.raises(ValueError, match=named):
        WorkerSettings.model_validate(settings)


def test_a_contradiction_in_a_file_is_told_with_its_section_and_file(tmp_path):
    file = tmp_path / "orkestra.toml"
    file.write_text("[worker]\nmax_concurrent_activities = 3\n[worker.tuner]\n")
    with pytest.raises(ConfigurationError, match=r"worker.*tuner and max_concurrent_activities"):
        OrkestraConfig.load(file)


def test_every_setting_reaches_the_sdk_in_its_own_form():
    options = sdk_options(
        WorkerSettings.model_validate(
            {
                "max_activities_per_second": 2.5,
                "workflow_task_poller_behavior": {"autoscaling": True, "maximum": 3},
                "activity_task_poller_behavior": {"maximum": 7},
                "deployment_config": {
                    "deployment_name": "orders",
                    "build_id": "1.2",
                    "default_versioning_behavior": "auto_upgrade",
                },
            }
        ),
        {},
    )
    assert options["max_activities_per_second"] == 2.5
    assert options["workflow_task_poller_behavior"] == PollerBehaviorAutoscaling(
        minimum=1, maximum=3, initial=3
    )
    assert options["activity_task_poller_behavior"] == PollerBehaviorSimpleMaximum(maximum=7)
    assert options["nexus_task_poller_behavior"] == PollerBehaviorSimpleMaximum(maximum=5)
    deployment = options["deployment_config"]
    assert deployment.version.to_canonical_string() == "orders.1.2"
    assert deployment.default_versioning_behavior is VersioningBehavior.AUTO_UPGRADE
    assert options["tuner"] is None


def test_a_tuner_brings_as_many_threads_as_activities():
    settings = WorkerSettings.model_validate({"tuner": {"maximum_activities": 40}})
    options = sdk_options(settings, {})
    assert isinstance(options["tuner"], WorkerTuner)
    assert activity_threads(settings, options) == 40
    assert activity_threads(WorkerSettings(), sdk_options(WorkerSettings(), {})) == 100


def test_options_in_code_win_over_the_configuration_also_over_what_excludes_them():
    tuned = WorkerSettings.model_validate({"tuner": {}})
    assert sdk_options(tuned, {"max_concurrent_activities": 3})["tuner"] is None
    counted = WorkerSettings(max_concurrent_activities=3)
    tuner = WorkerTuner.create_fixed()
    options = sdk_options(counted, {"tuner": tuner})
    assert options["tuner"] is tuner
    assert options["max_concurrent_activities"] is None
