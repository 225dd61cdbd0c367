"""How it is segmented: the method with its card, others that vote with it, and the device."""

from __future__ import annotations

from html import escape
from typing import Any

import qt
from slicer.i18n import tr as _

from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.device import DEVICES
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, WeightsError
from LabelFreeCovidSegLib.methods.base import JOINT, REGISTRY, card
from LabelFreeCovidSegLib.panel import estimate
from LabelFreeCovidSegLib.panel.section import Choice, Section


def device_titles() -> dict[str, str]:
    """Name of each device -> what the user reads."""
    titles = {"auto": _("Automatic"), "cpu": _("Processor"), "cuda": _("NVIDIA graphics card"), "mps": _("Apple GPU")}
    return {name: titles.get(name, name) for name in DEVICES}


class MethodSection(Section):
    """Two combo boxes, a check box for each method that may vote with the chosen one, and the card under them."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        titles = {name: card(name).title for name in REGISTRY}
        self._method = Choice(ui.methodComboBox, titles, self._lead)
        self._voters = {name: self._voter(name, title) for name, title in titles.items()}
        ui.votersLabel.visible = ui.votersWidget.visible = len(titles) > 1
        self._device = Choice(ui.deviceComboBox, device_titles(), lambda name: setattr(self.parameters, "device", name))

    def show(self) -> None:
        if self.parameters is None:
            return
        chosen, *voters = self.parameters.method.split(JOINT)
        self._method.show(chosen)
        for name, box in self._voters.items():
            box.visible = name != chosen
            box.checked = name in voters
        self._device.show(self.parameters.device)
        self._ui.cardLabel.text = self._card()

    def _voter(self, name: str, title: str) -> Any:
        """A check box that lets a method vote."""
        box = qt.QCheckBox(title)
        box.toolTip = self._ui.votersWidget.toolTip
        box.connect("clicked(bool)", lambda checked: self._vote(name, checked))
        self._ui.votersWidget.layout().addWidget(box)
        return box

    def _lead(self, name: str) -> None:
        _chosen, *voters = self.parameters.method.split(JOINT)
        self.parameters.method = JOINT.join([name, *(voter for voter in voters if voter != name)])

    def _vote(self, name: str, votes: bool) -> None:
        others = [member for member in self.parameters.method.split(JOINT) if member != name]
        self.parameters.method = JOINT.join([*others, name] if votes else others)

    def _card(self) -> str:
        """What to know before choosing this method, as rich text."""
        try:
            its = card(self.parameters.method)
        except LabelFreeCovidSegError as error:
            return f"<b>{escape(str(error))}</b>"
        cite = _("<b>Please cite</b> {citation}").format(citation=escape(its.citation))
        lines = [line for network in its.networks for line in _networks(network)]
        return "<br>".join([escape(its.summary), *dict.fromkeys(lines), cite, self._time(its)])

    def _time(self, its: Any) -> str:
        ct = self.parameters.inputVolume
        if not ct or not estimate.megavoxels(ct):
            return _("<b>Time</b> shown once a CT is chosen")
        seconds, seen_here = estimate.expected(ct, its.name, self.parameters.device, its.seconds_per_megavoxel)
        basis = _("as fast as the last run here") if seen_here else _("on 2 processor cores")
        return _("<b>Time</b> about {time} for this CT, {basis}").format(time=estimate.words(seconds), basis=basis)


def _networks(name: str) -> list[str]:
    """What networks of this name were trained on, and under which licence they come, as rich text."""
    try:
        stored = store.find(name)
    except WeightsError as error:
        return [f"<b>{escape(str(error))}</b>"]
    if stored is None:
        return [_("<b>The networks of {name} are not installed.</b> See Models below.").format(name=name)]
    names = ", ".join(sorted({row["collection"] for row in stored.entry.scans}))
    licence = stored.entry.licence
    if not stored.entry.licence_confirmed:
        licence += _(" (the scans' licences still have to be confirmed)")
    return [
        _("<b>Trained on</b> {scans}; no lesion label.").format(scans=escape(names)),
        _("<b>Licence</b> {licence}").format(licence=escape(licence)),
    ]
