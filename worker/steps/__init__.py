"""Pure steps of the pipeline: functions over frozen records, no I/O."""
