"""Figures: functions of frames and an ``Axes``, and a catalogue of all by name."""
