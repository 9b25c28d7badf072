"""The panel in a real Slicer: what the stand-in cannot vouch for.

Run by `slicer_add_python_unittest`, or by hand:
`Slicer --testing --no-splash --python-code "import unittest; ..."`, see docs/release-checklist.md.
"""

from __future__ import annotations

import time
import unittest

import qt
import slicer


class INRRegistrationInSlicerTest(unittest.TestCase):
    """One scenario a test, each in an empty scene."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("INRRegistration")
        self.widget = slicer.modules.INRRegistrationWidget
        self.ui = self.widget.panel.ui

    def wait(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.ui.statusLabel.property("text")
            slicer.app.processEvents()
            time.sleep(0.005)

    def choose_pair(self):
        from INRRegistrationLib.selftest import SETTINGS, make_pair

        fixed, moving = make_pair()
        self.ui.fixedSelector.setCurrentNode(fixed)
        self.ui.movingSelector.setCurrentNode(moving)
        parameters = self.widget.panel.parameters
        parameters.overrides, parameters.threads = {"fast": SETTINGS}, 1
        return fixed, moving

    def need_packages(self):
        from INRRegistrationLib import dependencies

        if missing := dependencies.missing():
            self.skipTest(f"not installed in this Slicer: {', '.join(missing)}")

    def test_the_panel_opens_and_says_what_is_missing(self):
        assert not self.ui.applyButton.property("enabled")
        assert "fixed volume" in self.ui.statusLabel.property("text")
        assert self.ui.presetSelector.property("count") > 0

    def test_parameters_are_read_and_written_through_pythonqt(self):
        self.choose_pair()
        assert self.ui.applyButton.property("enabled")
        self.ui.seedSpinBox.setValue(5)
        self.ui.resampleCheckBox.setChecked(False)
        assert self.widget.panel.parameters.seed == 5
        assert not self.widget.panel.parameters.resample

    def test_the_worker_starts_in_slicers_python(self):
        self.need_packages()
        process = self.widget.panel.registrations.process
        process.start()
        self.wait(lambda: process.devices, 60)
        identifier = process.process_id
        assert identifier > 0
        process.stop()
        assert not process.running

    def test_register_by_clicking(self):
        self.need_packages()
        _, moving = self.choose_pair()
        self.ui.applyButton.click()
        self.wait(lambda: self.widget.panel.run is None, 300)
        transform = self.ui.transformSelector.currentNode()
        assert transform is not None, self.ui.errorLabel.property("text")
        assert moving.GetTransformNodeID() == transform.GetID()

    def test_cancel_within_a_second(self):
        self.need_packages()
        self.choose_pair()
        self.ui.applyButton.click()
        self.wait(lambda: self.ui.progressBar.property("value") > 0, 120)
        start = time.monotonic()
        self.ui.applyButton.click()
        self.wait(lambda: self.widget.panel.run is None, 10)
        assert time.monotonic() - start < 1

    def test_register_by_script(self):
        self.need_packages()
        from INRRegistration import INRRegistrationLogic
        from INRRegistrationLib.selftest import check_registration

        check_registration(INRRegistrationLogic())

    def test_reload_keeps_the_parameters(self):
        fixed, _ = self.choose_pair()
        self.widget.onReload()
        ui = slicer.modules.INRRegistrationWidget.panel.ui
        assert ui.fixedSelector.currentNode().GetID() == fixed.GetID()

    def test_closed_stdin_ends_a_child_of_slicers_launcher(self):
        from INRRegistrationLib import places

        program = places.Here().command()[0]
        child = qt.QProcess()
        child.start(program, ["-c", "import sys; sys.stdin.read()"])
        assert child.waitForStarted(10000)
        child.closeWriteChannel()
        assert child.waitForFinished(10000)
