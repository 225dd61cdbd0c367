"""How it is segmented: the method with its card, and the device."""

from __future__ import annotations

from html import escape
from typing import Any

from slicer.i18n import tr as _

from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.device import DEVICES
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.methods.base import REGISTRY, card
from LabelFreeCovidSegLib.panel import estimate
from LabelFreeCovidSegLib.panel.section import Choice, Section


def device_titles() -> dict[str, str]:
    """Name of each device -> what the user reads."""
    titles = {"auto": _("Automatic"), "cpu": _("Processor"), "cuda": _("NVIDIA graphics card"), "mps": _("Apple GPU")}
    return {name: titles.get(name, name) for name in DEVICES}


class MethodSection(Section):
    """Two combo boxes and the card under them."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        titles = {name: card(name).title for name in REGISTRY}
        self._method = Choice(ui.methodComboBox, titles, lambda name: setattr(self.parameters, "method", name))
        self._device = Choice(ui.deviceComboBox, device_titles(), lambda name: setattr(self.parameters, "device", name))

    def show(self) -> None:
        if self.parameters is None:
            return
        self._method.show(self.parameters.method)
        self._device.show(self.parameters.device)
        self._ui.cardLabel.text = self._card()

    def _card(self) -> str:
        """What to know before choosing this method, as rich text."""
        its = card(self.parameters.method)
        cite = _("<b>Please cite</b> {citation}").format(citation=escape(its.citation))
        return "<br>".join([escape(its.summary), *_networks(its.name), cite, self._time(its)])

    def _time(self, its: Any) -> str:
        ct = self.parameters.inputVolume
        if not ct or not estimate.megavoxels(ct):
            return _("<b>Time</b> shown once a CT is chosen")
        seconds, seen_here = estimate.expected(ct, its.name, self.parameters.device, its.seconds_per_megavoxel)
        basis = _("as fast as the last run here") if seen_here else _("on 2 processor cores")
        return _("<b>Time</b> about {time} for this CT, {basis}").format(time=estimate.words(seconds), basis=basis)


def _networks(method: str) -> list[str]:
    """What its networks were trained on, and under which licence they come, as rich text."""
    try:
        stored = store.find(method)
    except WeightsError as error:
        return [f"<b>{escape(str(error))}</b>"]
    if stored is None:
        return [_("<b>Its networks are not installed.</b> See Models below.")]
    names = ", ".join(sorted({row["collection"] for row in stored.entry.scans}))
    licence = stored.entry.licence
    if not stored.entry.licence_confirmed:
        licence += _(" (the scans' licences still have to be confirmed)")
    return [
        _("<b>Trained on</b> {scans}; no lesion label.").format(scans=escape(names)),
        _("<b>Licence</b> {licence}").format(licence=escape(licence)),
    ]
