"""Accuracies A to D, metrics, calibration and recalibration."""
