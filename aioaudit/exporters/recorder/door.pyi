from exporters.recorder.door import *
