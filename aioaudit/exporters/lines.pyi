from exporters.lines import *
