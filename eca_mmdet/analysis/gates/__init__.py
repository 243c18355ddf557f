"""Gate values of trained detectors: measured, recorded, plotted."""
